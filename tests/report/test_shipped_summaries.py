"""Runs of which only `summary.csv` is at hand."""

from __future__ import annotations

import math
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import synthetic

from ltpl.report import as_csv, as_text, read_runs, report, rows
from ltpl.rounds.tree import RunTree
from ltpl.tickets.result import Result
from ltpl.tickets.summary_rows import read_summary

HEAD = "seed,round,density,weights_left,val_acc,test_acc,early_stop_step,seconds"
ROW = "0,0,1,10000,0.9,0.9,100,1.0"


def shipped(run: Path, to: Path) -> Path:
    """Copy what an experiment ships of a run."""
    for folder in (run, *(run / "branches").glob("*")):
        RunTree(folder).write_summary()
        there = to / folder.relative_to(run)
        there.mkdir(parents=True)
        shutil.copy(folder / "summary.csv", there)
    return to


def measured(results: list[Result]) -> list[dict[str, Any]]:
    return [
        {
            name: value
            for name, value in vars(result).items()
            if isinstance(value, int | float) and name != "steps"
        }
        for result in results
    ]


def test_rows_become_the_results_that_they_were_written_from(tmp_path: Path) -> None:
    rng = random.Random()
    given = {"start_acc": 0.25, "pruned_acc": 0.5, "epochs": 2.5}
    results = [synthetic.result(s, k, rng, **given) for s in (0, 3) for k in range(9)]
    synthetic.save(synthetic.begin(tmp_path / "run"), results)
    (run,) = read_runs([shipped(tmp_path / "run", tmp_path / "results")])
    for ours, theirs in zip(measured(run.main.results), measured(results), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-2)
        for exact in ("seed", "round", "kept", "total", "parameters", "early_stop_step"):
            assert ours[exact] == theirs[exact]


def test_a_shipped_run_gives_the_table_and_figures_of_the_run(tmp_path: Path) -> None:
    folder = synthetic.run(tmp_path / "run", seeds=[0, 1, 2])
    copy = shipped(folder, tmp_path / "results")
    (run,), (found,) = read_runs([folder]), read_runs([copy])
    assert found.name.endswith("/results")
    assert [line.branch for line in found.lines] == [None, "reinit"]
    for ours, theirs in zip(rows([found]), rows([run]), strict=True):
        assert (ours.round, ours.branch, ours.kept, ours.seeds) == (
            *(theirs.round, theirs.branch, theirs.kept, theirs.seeds),
        )
        for name in ("score", "difference", "ticket_minus_branch", "early_stop_step"):
            one, other = getattr(ours, name), getattr(theirs, name)
            assert (one is None) == (other is None)
            assert one is None or one.values == pytest.approx(other.values, abs=1e-3)
    page = report(copy)
    written = {path.name for path in page.parent.iterdir()}
    assert {"accuracy.svg", "early_stop.svg", "differences.md"} <= written
    assert "curves.svg" not in written
    assert "read from summary.csv" in page.read_text()


def test_what_an_old_summary_lacks_is_left_empty(tmp_path: Path) -> None:
    (tmp_path / "summary.csv").write_text(f"{HEAD}\n{ROW}\n0,1,0.5,5000,,0.91,,\n")
    results = read_summary(tmp_path / "summary.csv")
    assert [r.parameters for r in results] == [0, 0]
    assert math.isnan(results[1].density_all)
    assert (results[1].val_acc, results[1].early_stop_step, results[1].seconds) == (None, None, 0)
    table = rows(read_runs([tmp_path]))
    assert "of all parameters" not in as_text(table)
    assert "nan" not in as_csv(table)


def test_a_branch_alone_is_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "branches" / "reinit"
    folder.mkdir(parents=True)
    (folder / "summary.csv").write_text(f"{HEAD}\n0,1,0.5,5000,0.9,0.91,9,1\n")
    (run,) = read_runs([tmp_path])
    assert [(line.branch, len(line.results)) for line in run.lines] == [(None, 0), ("reinit", 1)]
    assert run.branches[0].results[0].total == 10000


def test_a_summary_beside_rounds_is_not_read_instead_of_them(tmp_path: Path) -> None:
    folder = synthetic.run(tmp_path / "run", seeds=[0])
    RunTree(folder).write_summary()
    for path in folder.glob("seed_*/round_*/result.json"):
        path.rename(path.with_suffix(".damaged"))
    (run,) = read_runs([folder])
    assert not run.main.results


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column seed, round, density, weights_left"),
        ("seed,round,density\n0,0,1\n", "has no column weights_left"),
        (f"{HEAD}\n", "no row that says how many weights"),
        (f"{HEAD}\n0,1,0,0,,,,\n", "no row that says how many weights"),
        (f"{HEAD}\n{ROW},7\n", "line 2: it has more or fewer cells"),
        (f"{HEAD}\n{ROW}\n0,1,0.5\n", "line 3: it has more or fewer cells"),
        (f"{HEAD}\nx{ROW}\n", "line 2: seed is 'x0'; a whole number is wanted"),
        (f"{HEAD}\n{'9' * 30}{ROW[1:]}\n", "seed is"),
        (f"{HEAD}\n-1{ROW[1:]}\n", "seed is '-1'"),
        (f"{HEAD}\n0,999999,1,10000,,,,\n", "round is '999999'"),
        (f"{HEAD}\n0,0,half,10000,,,,\n", "density is 'half'; a number is wanted"),
        (f"{HEAD}\n0,0,,10000,,,,\n", "density is ''"),
        (f"{HEAD}\n0,0,nan,10000,,,,\n", "density is nan; a share of 1"),
        (f"{HEAD}\n0,0,1.5,10000,,,,\n", "density is 1.5; a share of 1"),
        (f"{HEAD}\n0,0,1e-300,10000,,,,\n", "no row that says how many weights"),
        (f"{HEAD}\n0,0,1,10000,1e300,,,\n", "val_acc is"),
        (f"{HEAD}\n0,0,1,10000,,,,-5\n", "seconds is"),
        (f"{HEAD}\n{ROW}\n{ROW}\n", "line 3: seed 0 round 0 stands there twice"),
        (f"{HEAD}\n{ROW}\n0,1,0.5,900,,,,\n", "900 weights are not 0.5 of 10000"),
        (f'{HEAD}\n"{ROW}\n', "is no CSV file"),
        ("\xff\xfe", "is no CSV file"),
    ],
)
def test_a_broken_summary_is_one_line_that_says_where(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "summary.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read_runs([tmp_path])
    assert "\n" not in str(error.value)
    assert str(tmp_path / "summary.csv") in str(error.value)
