"""The table of a report: one row for each line and round."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltpl.report.console import plain
from ltpl.report.grid import Grid, latex, markdown, text
from ltpl.report.lines import Line, Run
from ltpl.report.pairs import alike, density, paired, rival
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
        density_all: Share of all parameters that are left, mean over seeds; not a number if that is
            not known.
        kept: Prunable weights that are left, mean over seeds.
        live_inputs: Features of the input that lead to an output, mean over seeds; None if that is
            not known.
        inputs: Features of the input.
        live_paths: Paths of kept weights from an input to an output, mean over seeds.
        dead: In how many seeds a layer is dead.
        seeds: How many seeds have finished the round.
        measure: What scores and differences are values of.
        score: The test score, or what stands for it.
        validation: The same on validation data.
        difference: Score minus that of the dense network with the same seed.
        ticket_minus_branch: Of a branch: score of the ticket that keeps as much, minus that of the
            branch, seed by seed.
        early_stop_step: The step of the lowest validation loss.
        pruned: The score on validation data of the mask on the trained weights it was drawn from.
        start: The score on validation data before retraining.
        epochs: Epochs of training, mean over seeds.
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
    ticket_minus_branch: Spread | None
    early_stop_step: Spread | None
    pruned: Spread | None
    start: Spread | None
    epochs: float | None
    seconds: float


@dataclass(frozen=True)
class Column:
    """A column of the table that people read; a detail is left out where a terminal is narrow."""

    title: str
    cell: Callable[[Row], str]
    detail: bool = False


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
    level, main = line.level(number), line is run.main
    ticket = [] if main else alike(rival(run, line), level)
    return Row(
        run=run.name,
        branch=line.branch,
        line=line.title,
        round=number,
        density=density(level),
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
        difference=None if main and not number else paired(level, run.main.level(0), measure.of),
        ticket_minus_branch=paired(ticket, level, measure.of),
        early_stop_step=Spread.of(r.early_stop_step for r in level),
        pruned=Spread.of(measure.pruned(r) for r in level),
        start=Spread.of(measure.start(r) for r in level),
        epochs=_mean([r.epochs for r in level]),
        seconds=sum(r.seconds for r in level) / len(level),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def columns(table: Sequence[Row]) -> list[Column]:
    """Return the columns in which at least one row has something to say; words come first."""
    if not table:
        return []
    measure = table[0].measure
    places = measure.decimals
    unit, points = (", %", ", pp") if measure.percent else ("", "")
    several = len({row.run for row in table}) > 1
    share = 2 if min(row.density for row in table) >= 0.001 else 4
    tested = measure.stage == "test"
    selects = any(r.dead or r.live_inputs != r.inputs for r in table)
    beside = " (95 %)" if any(r.difference and r.difference.interval() for r in table) else ""
    every = [
        Column("run", lambda r: r.run if several else ""),
        Column("line", lambda r: "dense" if is_dense(r) else r.line),
        Column("round", lambda r: str(r.round)),
        Column("weights left, %", lambda r: f"{100 * r.density:.{share}f}"),
        Column("of all parameters, %", lambda r: _share(r.density_all, share), detail=True),
        Column("weights left", lambda r: f"{r.kept:,}"),
        Column("live inputs", lambda r: _live_inputs(r) if selects else ""),
        Column("live paths", lambda r: _live_paths(r) if selects else ""),
        Column("seeds", lambda r: str(r.seeds)),
        Column(measure.name() + unit, lambda r: _text(r.score, places)),
        Column(f"against dense{points}{beside}", lambda r: _told(r.difference, places)),
        Column(f"ticket - branch{points}{beside}", lambda r: _told(r.ticket_minus_branch, places)),
        Column(
            measure.name("validation") + unit,
            lambda r: _text(r.validation, places) if tested else "",
        ),
        Column("early stop, step", _early_stop),
        Column(f"pruned, as trained{unit}", lambda r: _text(r.pruned, places), detail=True),
        Column(f"before retraining{unit}", lambda r: _text(r.start, places), detail=True),
        Column("epochs", lambda r: "" if r.epochs is None else f"{r.epochs:,.4g}", detail=True),
        Column("seconds", lambda r: f"{r.seconds:,.0f}" if r.seconds else "", detail=True),
    ]
    return [c for c in every if any(c.cell(row) for row in table)]


def grid(table: Sequence[Row], details: bool = True, only: Sequence[str] = ()) -> Grid:
    """Return the table that people read.

    Args:
        table: The rows.
        details: Whether to show the columns that are left out where there is little room.
        only: Titles of the columns to show; all if none is given.
    """
    shown = [
        c for c in columns(table) if (details or not c.detail) and (c.title in only or not only)
    ]
    keys = [(row.run, row.branch) for row in table]
    return Grid(
        [c.title for c in shown],
        [[c.cell(row) for c in shown] for row in table],
        sum(c.title in ("run", "line") for c in shown),
        frozenset(n for n, key in enumerate(keys) if not n or key != keys[n - 1]),
    )


def is_dense(row: Row) -> bool:
    """Return whether the row is the dense network."""
    return row.branch is None and row.round == 0


def as_markdown(table: Sequence[Row], only: Sequence[str] = ()) -> str:
    """Return the table in Markdown.

    Args:
        table: The rows.
        only: Titles of the columns to show; all if none is given.
    """
    return markdown(grid(table, only=only))


def as_latex(table: Sequence[Row]) -> str:
    """Return the table in LaTeX."""
    return latex(grid(table))


def as_text(table: Sequence[Row], paths: Sequence[str | Path] = ()) -> str:
    """Return the table in plain text for a terminal: aligned columns, mean ± std over seeds.

    Args:
        table: The rows.
        paths: Files to name beneath the table, one a line.
    """
    if not table:
        return "No round is finished.\n"
    beneath = "\n" + "".join(f"{path}\n" for path in paths) if paths else ""
    return text(grid(table, details=False)) + plain(beneath)


def _text(spread: Spread | None, decimals: int) -> str:
    return "" if spread is None else spread.text(decimals)


def _told(spread: Spread | None, decimals: int) -> str:
    return "" if spread is None else spread.told(decimals)


def _share(share: float, decimals: int) -> str:
    return "" if math.isnan(share) else f"{100 * share:.{decimals}f}"


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
