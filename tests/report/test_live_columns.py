"""Live inputs and paths in the table, and the alarm."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import Any

import pytest
import synthetic

from ltpl.report import Row, alarm, as_csv, as_markdown, as_text, read_runs, report, rows
from ltpl.tickets.result import Result


def table(folder: Path, *given: dict[str, Any]) -> list[Row]:
    """One level for each, two seeds."""
    rng = random.Random()
    results = [
        synthetic.result(seed, level, rng, **fields)
        for level, fields in enumerate(given)
        for seed in range(2)
    ]
    synthetic.save(synthetic.begin(folder), results)
    return rows(read_runs([folder]))


def living(inputs: int | None, paths: float | None, *dead: str) -> dict[str, Any]:
    total = None if inputs is None else 1433
    return {"live_inputs": inputs, "inputs": total, "live_paths": paths, "dead": list(dead)}


def test_live_inputs_and_paths_are_shown_where_inputs_are_lost(tmp_path: Path) -> None:
    found = table(tmp_path, living(1433, 160_496.0), living(68, 1_234_567.0), living(None, None))
    for text in (as_text(found), as_markdown(found), report(tmp_path).read_text()):
        assert all(x in text for x in ("live inputs", "68 of 1,433", "live paths", "160,496"))
        assert "1.2e+06" in text


def test_a_table_grows_no_wider_where_every_input_is_read(tmp_path: Path) -> None:
    found = table(tmp_path, living(1433, 9.0), living(1433, 3.0))
    assert "live" not in as_text(found)
    read = list(csv.DictReader(io.StringIO(as_csv(found))))
    columns = ("live_inputs", "inputs", "live_paths", "seeds_with_dead_layers")
    assert [[row[name] for name in columns] for row in read] == [
        ["1433", "1433", "9", "0"],
        ["1433", "1433", "3", "0"],
    ]


def test_a_dead_layer_shows_the_columns(tmp_path: Path) -> None:
    found = table(tmp_path, living(1433, 9.0), living(1433, 3.0, "net.fc2.weight"))
    assert "live paths" in as_text(found)
    assert found[1].dead == 2


def test_results_without_counts_show_and_write_nothing(tmp_path: Path) -> None:
    found = table(tmp_path, {}, {})
    assert "live" not in as_text(found)
    assert next(csv.DictReader(io.StringIO(as_csv(found))))["live_inputs"] == ""


def result(level: int, branch: str | None = None, **fields: Any) -> Result:
    return synthetic.result(3, level, random.Random(), branch=branch, **fields)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (living(5, 7.0), None),
        (living(None, None), None),
        (living(5, 7.0, "b"), "seed 3 round 4: no path of kept weights runs through b."),
        (living(None, None, *"abcdef"), "runs through a, b, c, d and 2 more."),
        (living(0, 0.0, "a", "b"), "leads from the input to the output: dead are a, b."),
    ],
)
def test_the_alarm_names_round_seed_and_layers(given: dict[str, Any], said: str | None) -> None:
    line = alarm(result(4, **given))
    assert (line is None) == (said is None)
    if said is not None:
        assert said in line
        assert line.count("\n") == 0
        assert "reinit, seed 3" in alarm(result(4, branch="reinit", **given))
