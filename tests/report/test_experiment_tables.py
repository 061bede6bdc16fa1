"""The tables of the READMEs in `experiments` are those that the report makes."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest
import synthetic
from left import bump, path_csv

from ltpl.rounds.tree import RunTree

ROOT = Path(__file__).parents[2] / "experiments"
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="experiments are not shipped")


@pytest.fixture(scope="module")
def tables() -> Any:
    spec = importlib.util.spec_from_file_location("experiment_tables", ROOT / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_readme_is_what_the_script_makes(
    tables: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_marked_blocks_are_filled_and_checked(
    tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "HERE", tmp_path)
    folder = ROOT / "cora" / "results" / "h16"
    readme = tmp_path / "one" / "README.md"
    readme.parent.mkdir()
    readme.write_text(
        f"before\n<!-- table: levels {folder} --lines reinit,ticket --rounds 3,6 -->\nold\n"
        f"<!-- end -->\nbetween\n<!-- table: differences {folder} --lines reinit --rounds 3 -->\n"
        f'<!-- end -->\n<!-- table: rounds {folder} --lines ticket --columns "round; seeds" -->\n'
        "<!-- end -->\nafter\n"
    )
    assert tables.main(["--check"]) == 1
    assert "old" in readme.read_text()
    assert tables.main([]) == 0
    text = readme.read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "| weights left, % | weights left | reinit | ticket |" in text
    assert "| 26.2 | 6,040 | 81.84 ± 0.78 | 81.94 ± 0.83 |" in text
    assert text.count("| ticket - reinit |") == 2  # accuracy and early stop
    assert "| round | seeds |\n| ---: | ---: |\n| 0 | 5 |" in text
    assert tables.main(["--check"]) == 0


@pytest.mark.parametrize("option", ["--lines wrong", "--columns 'seconds; wrong'"])
def test_a_name_that_is_not_there_is_named(tables: Any, option: str) -> None:
    with pytest.raises(ValueError, match="there is no 'wrong', only"):
        tables.table(f"rounds results/h16 {option}", ROOT / "cora")


def test_instability_is_a_table_of_the_paths_that_are_shipped(tables: Any, tmp_path: Path) -> None:
    branch = tmp_path / "results" / "branches" / "from_20"
    synthetic.save(branch, [synthetic.result(s, 0, random.Random()) for s in range(2)])
    RunTree(branch).write_summary()
    for seed in range(2):
        path_csv(branch / f"seed_{seed}" / "round_00", bump(0.1 * seed))
        (branch / f"seed_{seed}" / "round_00" / "result.json").unlink()
    config = {"rewind": {"init_args": {"at": "20it"}}}
    (branch / "branch.json").write_text(json.dumps({"kind": "reorder", "config": config}))
    assert tables.table("instability results", tmp_path) == (
        "| branch | rewinding point | weights left, % | seeds | instability, validation error "
        "| with raw statistics |\n| :--- | :--- | ---: | ---: | ---: | ---: |\n"
        "| from\\_20 | 20it | 100 | 2 | 5.2 (0.5 to 10.0) | 5.2 (0.5 to 10.0) |\n"
    )
