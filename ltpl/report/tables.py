"""The table of a report: one row for each line and round, as CSV, Markdown and plain text."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltpl.report.console import plain
from ltpl.report.lines import Line, Run
from ltpl.report.score import Score, choose
from ltpl.report.spread import Spread

_MANY = 1e6  # paths beyond are written as 1.2e+06


@dataclass(frozen=True)
class Row:
    """One round of a run's main line or of a branch, over the seeds that have finished it.

    Args:
        run: Name of the run.
        branch: Name of the branch; None for the main line.
        line: How the line is called.
        round: How many prunings came before; 0 is the dense network.
        density: Share of the prunable weights that are left, mean over seeds.
        density_all: Share of all parameters that are left, mean over seeds.
        kept: Prunable weights that are left, mean over seeds.
        live_inputs: Features of the input that lead to an output, mean over seeds; None if that is
            not known.
        inputs: Features of the input.
        live_paths: Paths of kept weights from an input to an output, mean over seeds.
        dead: In how many seeds a layer is dead.
        seeds: How many seeds have finished the round.
        measure: What `score`, `validation`, `difference` and `start` are values of.
        score: The test score, or what stands for it.
        validation: The same on validation data.
        difference: Score minus that of the dense network with the same seed.
        early_stop_step: The step of the lowest validation loss.
        start: The score on validation data before retraining.
        seconds: Training time.
    """

    run: str
    branch: str | None
    line: str
    round: int
    density: float
    density_all: float
    kept: int
    live_inputs: float | None
    inputs: int | None
    live_paths: float | None
    dead: int
    seeds: int
    measure: Score
    score: Spread | None
    validation: Spread | None
    difference: Spread | None
    early_stop_step: Spread | None
    start: Spread | None
    seconds: float


@dataclass(frozen=True)
class Column:
    """A column of the table that people read."""

    title: str
    cell: Callable[[Row], str]
    left: bool = False


def rows(runs: Sequence[Run], measure: Score | None = None) -> list[Row]:
    """Return the rows of the table: by run, the main line first, then its branches, by round.

    Args:
        runs: What `read_runs` returned.
        measure: What is compared; chosen from the results if not given.
    """
    measure = measure or choose([r for run in runs for line in run.lines for r in line.results])
    return [
        _row(run, line, number, measure)
        for run in runs
        for line in run.lines
        for number in line.rounds
    ]


def _row(run: Run, line: Line, number: int, measure: Score) -> Row:
    level = line.level(number)
    dense = {r.seed: measure.of(r) for r in run.main.level(0)}
    is_dense = line is run.main and number == 0
    pairs = [(measure.of(r), dense.get(r.seed)) for r in level if not is_dense]
    return Row(
        run=run.name,
        branch=line.branch,
        line=line.title,
        round=number,
        density=sum(r.density for r in level) / len(level),
        density_all=sum(r.density_all for r in level) / len(level),
        kept=round(sum(r.kept for r in level) / len(level)),
        live_inputs=_mean([r.live_inputs for r in level]),
        inputs=level[0].inputs,
        live_paths=_mean([r.live_paths for r in level]),
        dead=sum(bool(r.dead) for r in level),
        seeds=len(level),
        measure=measure,
        score=Spread.of(measure.of(r) for r in level),
        validation=Spread.of(measure.validation(r) for r in level),
        difference=Spread.of(a - b for a, b in pairs if a is not None and b is not None),
        early_stop_step=Spread.of(r.early_stop_step for r in level),
        start=Spread.of(measure.start(r) for r in level),
        seconds=sum(r.seconds for r in level) / len(level),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def columns(table: Sequence[Row]) -> list[Column]:
    """Return the columns in which at least one row has something to say."""
    if not table:
        return []
    measure = table[0].measure
    places = measure.decimals
    unit, points = (", %", ", pp") if measure.percent else ("", "")
    several = len({row.run for row in table}) > 1
    share = 2 if min(row.density for row in table) >= 0.001 else 4
    tested = measure.stage == "test"
    selects = any(r.dead or r.live_inputs != r.inputs for r in table)
    every = [
        Column("run", lambda r: r.run if several else "", left=True),
        Column("line", lambda r: "dense" if is_dense(r) else r.line, left=True),
        Column("round", lambda r: str(r.round)),
        Column("weights left, %", lambda r: f"{100 * r.density:.{share}f}"),
        Column("of all parameters, %", lambda r: f"{100 * r.density_all:.{share}f}"),
        Column("weights left", lambda r: f"{r.kept:,}"),
        Column("live inputs", lambda r: _live_inputs(r) if selects else ""),
        Column("live paths", lambda r: _live_paths(r) if selects else ""),
        Column("seeds", lambda r: str(r.seeds)),
        Column(measure.name() + unit, lambda r: _text(r.score, places)),
        Column(f"against dense{points}", lambda r: _text(r.difference, places, "+")),
        Column(
            measure.name("validation") + unit,
            lambda r: _text(r.validation, places) if tested else "",
        ),
        Column("early stop, step", _early_stop),
        Column(f"before retraining{unit}", lambda r: _text(r.start, places)),
        Column("seconds", lambda r: f"{r.seconds:,.0f}"),
    ]
    return [c for c in every if any(c.cell(row) for row in table)]


def is_dense(row: Row) -> bool:
    """Return whether the row is the dense network."""
    return row.branch is None and row.round == 0


def as_csv(table: Sequence[Row]) -> str:
    """Return the table with plain numbers: per cent where people read per cent, no separators."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV)
    for r in table:
        writer.writerow([r.run, r.branch or "", r.round, *_sizes(r), *_measures(r), *_living(r)])
    return file.getvalue()


_CSV = (
    *("run", "branch", "round", "density_percent", "density_all_percent", "weights_left", "seeds"),
    *("measure", "score", "score_std", "validation", "validation_std"),
    *("difference_to_dense", "difference_std", "early_stop_step", "before_retraining", "seconds"),
    *("live_inputs", "inputs", "live_paths", "seeds_with_dead_layers"),
)


def _sizes(r: Row) -> list[str]:
    return [_plain(100 * r.density), _plain(100 * r.density_all), str(r.kept), str(r.seeds)]


def _living(r: Row) -> list[str]:
    return [*map(_plain, (r.live_inputs, r.inputs, r.live_paths)), str(r.dead)]


def _measures(r: Row) -> list[str]:
    cells = [r.measure.name() + r.measure.unit]
    for spread in (r.score, r.validation, r.difference):
        cells += [_plain(spread.mean), _plain(spread.std)] if spread else ["", ""]
    for spread in (r.early_stop_step, r.start):
        cells.append(_plain(spread.mean) if spread else "")
    return [*cells, _plain(r.seconds)]


def as_markdown(table: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    shown = columns(table)
    lines = [
        [_escape(c.title) for c in shown],
        [":---" if c.left else "---:" for c in shown],
        *([_escape(c.cell(row)) for c in shown] for row in table),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_text(table: Sequence[Row], paths: Sequence[str | Path] = ()) -> str:
    """Return the table in plain text for a terminal: aligned columns, mean ± std over seeds.

    Args:
        table: The rows.
        paths: Files to name beneath the table, one a line.
    """
    if not table:
        return "No round is finished.\n"
    shown = columns(table)
    lines = [[c.title for c in shown], *([c.cell(row) for c in shown] for row in table)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ""
    for line in lines:
        cells = [
            cell.ljust(width) if column.left else cell.rjust(width)
            for cell, width, column in zip(line, widths, shown, strict=True)
        ]
        text += "  ".join(cells).rstrip() + "\n"
    if paths:
        text += "\n" + "".join(f"{path}\n" for path in paths)
    return plain(text)


def _text(spread: Spread | None, decimals: int, sign: str = "") -> str:
    return "" if spread is None else spread.text(decimals, sign)


def _early_stop(row: Row) -> str:
    return "" if row.early_stop_step is None else f"{row.early_stop_step.mean:,.0f}"


def _live_inputs(row: Row) -> str:
    if row.live_inputs is None:
        return ""
    return f"{row.live_inputs:,.0f} of {row.inputs:,}"


def _live_paths(row: Row) -> str:
    if row.live_paths is None:
        return ""
    return f"{row.live_paths:,.0f}" if row.live_paths < _MANY else f"{row.live_paths:.1e}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"


def _escape(cell: str) -> str:
    for mark in "\\|<>&*_`[]":
        cell = cell.replace(mark, f"\\{mark}")
    return plain(" ".join(cell.split()))
