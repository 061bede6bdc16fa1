"""`ltpl check`: from the config of a run to its verdicts and the exit code."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltpl.cli import main
from ltpl.rounds.plan import changed

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"

pytestmark = pytest.mark.filterwarnings(
    # Lightning 2.6 calls what jsonargparse 4.53 deprecates
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the quickstart, much shorter, with a claim that looks like YAML."""
    folder = tmp_path_factory.mktemp("check") / "run"
    content = yaml.safe_load(CONFIG.read_text())
    content["expect"] += [{"claim": "conv: better", "of": "dense", "at_most": 101, "source": "1"}]
    config = folder.with_name("config.yaml")
    config.write_text(yaml.safe_dump(content))
    short = ["--levels=1", "--trainer.max_epochs=2", "--quiet", "--report=false"]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(sys, "argv", ["ltpl"])
        main(["rounds", f"--config={config}", f"--run={folder}", *short])
    return folder


def checked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """Return the exit code and what was printed."""
    code: Any = 0
    try:
        main(["check", *arguments])
    except SystemExit as stopped:
        code = stopped.code
    return code, capsys.readouterr().out


@pytest.fixture
def expecting(tmp_path: Path) -> Any:
    def written(**options: Any) -> str:
        entry = {"claim": "It prunes.", "of": "ticket@1", "measure": "weights_left", **options}
        config = {"model": {"class_path": "os.system"}, "expect": [entry]}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return f"--config={tmp_path / 'config.yaml'}"

    return written


def test_the_expectations_of_the_config_are_in_the_record_and_are_checked(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = yaml.safe_load((run.parent / "config.yaml").read_text())["expect"]
    assert json.loads((run / "run.json").read_text())["config"]["expect"] == said
    _, out = checked([str(run)], capsys)
    for entry in said:
        assert entry["claim"] in out
    assert "run has no round 8: ltpl rounds" in out
    assert out.endswith(" not yet\n")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"value": 32805, "tolerance": 0}, 0),
        ({"value": 32804, "tolerance": 0}, 1),
        ({"value": 32804, "tolerance": 0, "seeds": 5}, 0),
    ],
)
def test_the_exit_code_is_one_if_something_differs(
    options: dict[str, Any],
    code: int,
    run: Path,
    expecting: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "verdicts.md"
    found, text = checked([str(run), expecting(**options), f"--out={out}"], capsys)
    assert found == code
    summary = text.splitlines()[-1]
    assert ("1 differs" in summary) == bool(code)
    assert out.read_text().endswith(f"{summary}\n")


@pytest.mark.parametrize(
    "options", [{"measure": "tst_acc"}, {"of": "ticket"}, {"of": "ticket@99999"}, {"seeds": 0}]
)
def test_a_claim_that_no_run_could_decide_is_misuse(
    options: dict[str, Any], run: Path, expecting: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = checked([str(run), expecting(at_least=0, **options)], capsys)
    assert (code, out) == (2, "")


@pytest.mark.parametrize(
    ("of", "told"),
    [
        ("renit@1", "branch renit has no round 1"),
        ("ticket@9", "run has no round 9"),
        ("other:reinit@1", "there is no run other beside"),
    ],
)
def test_what_is_not_there_yet_is_no_misuse(
    of: str, told: str, run: Path, expecting: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = checked([str(run), expecting(at_least=0, of=of)], capsys)
    assert code == 0
    assert told in out
    assert out.endswith("0 agree, 0 differ, 1 not yet\n")


def test_what_is_expected_may_change_when_a_run_goes_on() -> None:
    assert changed({"expect": [{"claim": "c"}], "levels": 1}, {"levels": 1}) == []
    assert changed({"expect": None}, {"expect": [{"claim": "c"}]}) == []
