from __future__ import annotations

import csv
import io
import json
import random
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import synthetic

from ltpl.report import Run, Spread, as_latex, as_markdown, as_text, read_runs, rows
from ltpl.report import as_csv as rows_as_csv
from ltpl.report.decisions import in_words, shares, tally, told
from ltpl.report.differences import STEP, Difference, as_csv, differences, side_by_side
from ltpl.report.page import page
from ltpl.report.score import Score

SCORE = Score("test", percent=True)


def branch(
    run: Path, name: str, scores: Mapping[tuple[int, int], float], config: Any = None, **given: Any
) -> None:
    """Write a branch with these scores by seed and round."""
    rng = random.Random()
    results = [
        synthetic.result(seed, level, rng, test_acc=score, branch=name, **given)
        for (seed, level), score in scores.items()
    ]
    synthetic.save(run / "branches" / name, results)
    record = {"kind": name, "config": {"branch": config or {}}}
    (run / "branches" / name / "branch.json").write_text(json.dumps(record))


def begin(folder: Path, scores: Mapping[tuple[int, int], float], **given: Any) -> Path:
    rng = random.Random()
    results = [synthetic.result(s, k, rng, test_acc=x, **given) for (s, k), x in scores.items()]
    synthetic.save(synthetic.begin(folder), results)
    return folder


def found(*runs: Run) -> list[Difference]:
    return [d for d in differences(runs, SCORE) if d.measure is SCORE]


MAIN = {(s, k): 0.9 + 0.01 * s + 0.001 * k for s in range(3) for k in range(4)}


def test_a_branch_is_paired_with_the_ticket_of_its_round_and_seed(tmp_path: Path) -> None:
    run = begin(tmp_path, MAIN)
    branch(run, "reinit", {(1, 2): 0.80, (0, 2): 0.70, (7, 2): 0.10})  # the run has no seed 7
    (read,) = read_runs([run])
    (pair,) = [d for d in found(read) if d.second == "reinit"]
    assert pair.title == "ticket - reinit"
    assert sorted(pair.spread.values) == pytest.approx([11.2, 20.2])
    row = rows([read])[-1]
    assert sorted(row.ticket_minus_branch.values) == sorted(pair.spread.values)
    assert rows([read])[0].ticket_minus_branch is None


def test_every_table_shows_mean_deviation_and_interval(tmp_path: Path) -> None:
    run = begin(tmp_path, MAIN)
    branch(run, "reinit", {(0, 2): 0.80, (1, 2): 0.85, (2, 2): 0.83})
    (read,) = read_runs([run])
    table = rows([read])
    cell = table[-1].ticket_minus_branch.told(2)
    values = [100 * (MAIN[s, 2] - x) for s, x in enumerate((0.80, 0.85, 0.83))]
    half = 4.302653 * statistics.stdev(values) / 3**0.5
    low, high = statistics.mean(values) - half, statistics.mean(values) + half
    mean, std = statistics.mean(values), statistics.stdev(values)
    assert cell == f"{mean:+.2f} ± {std:.2f} ({low:+.2f} to {high:+.2f})"
    assert cell in as_text(table)
    assert cell in as_markdown(table)
    assert cell.replace("±", r"$\pm$").replace("(-", "($-$") in as_latex(table)
    interval = f"<small>{low:+.2f} to {high:+.2f}</small>".replace("-", "\u2212")
    assert page([read], table, [], found(read)).count(interval) == 2  # of levels, and of rounds
    *_, last = csv.DictReader(io.StringIO(rows_as_csv(table)))
    assert float(last["ticket_minus_branch_low"]) == pytest.approx(low)
    assert float(last["ticket_minus_branch_high"]) == pytest.approx(high)
    assert last["ticket_minus_branch_n"] == last["difference_n"] == "3"


def test_lines_meet_where_they_keep_as_much(tmp_path: Path) -> None:
    """A ladder of its own may reach a density in another round, or never."""
    run = begin(tmp_path, MAIN)
    rng = random.Random()
    kept = [(1, 6400), (2, 3000)]  # the main line keeps 8000, 6400, 5120
    own = [synthetic.result(s, k, rng, kept=n, layers=[]) for s in range(2) for k, n in kept]
    synthetic.save(run / "branches" / "own", own)
    (read,) = read_runs([run])
    titles = [(d.title, d.round) for d in found(read) if "own" in d.title]
    assert titles == [("ticket - own", 2)]


def test_a_branch_without_a_like_in_the_main_line_is_compared_with_dense(tmp_path: Path) -> None:
    run = begin(tmp_path, {(0, 0): 0.9, (1, 0): 0.92})
    branch(run, "ladder", {(0, 1): 0.91, (1, 1): 0.91})
    (read,) = read_runs([run])
    assert [d.title for d in found(read)] == ["ladder - dense"]
    assert found(read)[0].spread.values == pytest.approx((1.0, -1.0))


def test_a_branch_of_a_branch_is_compared_with_that(tmp_path: Path) -> None:
    run = begin(tmp_path, MAIN)
    branch(run, "ladder", {(0, 1): 0.95})
    branch(run, "reinit", {(0, 1): 0.85}, config={"of": "ladder"})
    (read,) = read_runs([run])
    (pair,) = [d for d in found(read) if d.second == "reinit"]
    assert (pair.first, pair.spread.values) == ("ladder", pytest.approx((10.0,)))


def test_runs_are_paired_by_seed_and_density(tmp_path: Path) -> None:
    one, other = begin(tmp_path / "a", MAIN), begin(tmp_path / "b", {
        key: score - 0.02 for key, score in MAIN.items() if key[0] != 1 and key[1] != 3
    })  # fmt: skip
    pairs = [d for d in found(*read_runs([one, other])) if d.title == "a - b"]
    assert [d.round for d in pairs] == [0, 1, 2]
    assert all(d.spread.values == pytest.approx((2.0, 2.0)) for d in pairs)


def test_early_stops_are_compared_too(tmp_path: Path) -> None:
    rng = random.Random()
    steps = {(0, 0): 500, (1, 0): 700, (0, 1): 300, (1, 1): 300}
    results = [synthetic.result(s, k, rng, early_stop_step=n) for (s, k), n in steps.items()]
    synthetic.save(synthetic.begin(tmp_path), results)
    (pair,) = [d for d in differences(read_runs([tmp_path]), SCORE) if d.measure is STEP]
    assert told(pair) == (
        "At 80.0 % of the weights the ticket reaches its lowest validation loss 300 steps before "
        "dense (95 % interval -1571 to +971, n = 2): not decided"
    )


def difference(density: float, *values: float, measure: Score = SCORE) -> Difference:
    return Difference("run", "ticket", "dense", 1, density, measure, Spread(values))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0.1, 0.4, 0.2), "0.23 pp above dense (95 % interval -0.15 to +0.61, n = 3): not decided"),
        ((0.2, 0.3, 0.2), "0.23 pp above dense (95 % interval +0.09 to +0.38, n = 3): decided"),
        ((-0.2,), "0.20 pp below dense (n = 1): one seed decides nothing"),
        ((-0.2, -0.2), "0.20 pp below dense (all seeds alike, n = 2): not decided"),
    ],
)
def test_a_difference_is_told_with_what_decides_it(given: tuple[float, ...], said: str) -> None:
    assert told(difference(0.211, *given)) == f"At 21.1 % of the weights the ticket tests {said}"


def test_a_diverged_seed_cannot_be_compared() -> None:
    said = told(difference(0.5, 1.0, float("nan")))
    assert said.endswith("the ticket and dense cannot be compared: a seed diverged")


def test_many_levels_are_counted() -> None:
    up, down, open_ = (1.0, 1.1, 1.2), (-1.0, -1.1, -1.2), (-1.0, 0.0, 1.1)
    levels = [difference(0.8**k, *v) for k, v in enumerate([open_, up, up, up, open_, down], 1)]
    assert tally(levels) == (
        "decided above at 64.0 to 41.0 %, decided below at 26.2 %, not decided at 2 levels"
    )
    (said,) = in_words(levels)
    assert said.startswith("The ticket against dense: decided above at")
    assert said.endswith("at 26.2 % of the weights (95 % intervals, n = 3).")
    assert len(in_words(levels[:3])) == 3
    assert tally([levels[0], levels[4]]) == "decided at no level"
    assert tally([difference(0.5, 1.0)]) == "one seed decides nothing"


def test_neighbours_are_drawn_together() -> None:
    levels = [0.8, 0.6, 0.4, 0.2, 0.1]
    assert shares([0.4, 0.8, 0.6], levels) == "80.0 to 40.0"
    assert shares([0.8, 0.2, 0.1], levels) == "80.0, 20.0 and 10.0"
    assert shares([0.8], levels) == "80.0"


def test_a_line_of_the_table_is_a_density(tmp_path: Path) -> None:
    run = begin(tmp_path, MAIN)
    branch(run, "reinit", {(0, 2): 0.80, (1, 2): 0.85})
    grid = side_by_side(found(*read_runs([run])))
    assert grid.head == ["weights left, %", "ticket - dense", "ticket - reinit"]
    assert [line[0] for line in grid.lines] == ["80.0", "64.0", "51.2"]
    assert [bool(line[2]) for line in grid.lines] == [False, True, False]


def test_differences_are_written_as_plain_numbers(tmp_path: Path) -> None:
    pairs = found(*read_runs([begin(tmp_path / "a, b", MAIN)]))
    first, *_ = csv.DictReader(io.StringIO(as_csv(pairs)))
    assert (first["run"], first["first"], first["second"]) == ("a, b", "ticket", "dense")
    assert float(first["mean"]) == pytest.approx(0.1)
    assert (first["n"], first["decided"], first["low"]) == ("3", "false", "")  # all seeds alike
