"""Paired differences with intervals: tickets, dense networks, branches, other runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ltpl.report.grid import Grid, markdown
from ltpl.report.levels import by_density
from ltpl.report.lines import Line, Run
from ltpl.report.numbers import numbers, plain_number
from ltpl.report.pairs import alike, density, paired, rival
from ltpl.report.score import Score
from ltpl.report.spread import Spread, per_cent
from ltpl.tickets.result import Result

_NUMBERS = ("mean", "std", "low", "high", "n")
STEP = Score("validation", "early-stop step", decimals=0)


@dataclass(frozen=True)
class Difference:
    """First minus second at one level, once for each seed that has both.

    Args:
        run: Name of the run.
        first: What is compared: `ticket`, the title of a branch, or the name of a run.
        second: What it is compared with: `dense`, the title of a branch, or the name of a run.
        round: Of the first.
        density: Of the first, mean over seeds.
        measure: What is compared; `STEP` for the step of the lowest validation loss.
        spread: Over the seeds.
    """

    run: str
    first: str
    second: str
    round: int
    density: float
    measure: Score
    spread: Spread

    @property
    def title(self) -> str:
        """First - second."""
        return f"{self.first} - {self.second}"

    @property
    def name(self) -> str:
        """What is compared, in words."""
        return str(self.measure.key) if self.measure is STEP else self.measure.name()

    @property
    def loss(self) -> float:
        """By how much the first is worse, in the mean; not a number where a seed diverged."""
        return self.spread.mean if self.measure.lower_is_better else -self.spread.mean


def differences(runs: Sequence[Run], measure: Score) -> list[Difference]:
    """Return every comparison: tickets with dense, with branches, the first run with the others.

    Args:
        runs: What `read_runs` returned.
        measure: What is compared; early-stop steps are compared too.
    """
    found: list[Difference] = []
    for compared, value in ((measure, measure.of), (STEP, early_stop)):
        for run in runs:
            found += with_dense(run, run.main, compared, value)
            for line in run.branches:
                pairs = list(between(run, rival(run, line), line, compared, value))
                found += pairs or with_dense(run, line, compared, value)
        for other in runs[1:]:
            first = runs[0]
            found += _levels(first, first.main, other.main, first.name, other.name, compared, value)
    return found


def early_stop(result: Result) -> float | None:
    """Return the step of the lowest validation loss."""
    return None if result.early_stop_step is None else float(result.early_stop_step)


def between(
    run: Run,
    first: Line,
    second: Line,
    measure: Score,
    value: Callable[[Result], float | None] | None = None,
) -> Iterator[Difference]:
    """Yield the differences of two lines, at the levels where both keep as much.

    Args:
        run: Whose lines they are.
        first: A line.
        second: Another.
        measure: What is compared.
        value: How it is read from a result; as the measure does if not given.
    """
    yield from _levels(run, first, second, first.title, second.title, measure, value or measure.of)


def _levels(
    run: Run,
    first: Line,
    second: Line,
    one: str,
    other: str,
    measure: Score,
    value: Callable[[Result], float | None],
) -> Iterator[Difference]:
    for number in first.rounds:
        level = first.level(number)
        if spread := paired(level, alike(second, level), value):
            yield Difference(run.name, one, other, number, density(level), measure, spread)


def with_dense(
    run: Run,
    line: Line,
    measure: Score,
    value: Callable[[Result], float | None] | None = None,
) -> Iterator[Difference]:
    """Yield the differences of a line to the dense network of its run.

    Args:
        run: The run.
        line: Its main line or a branch.
        measure: What is compared.
        value: How it is read from a result; as the measure does if not given.
    """
    for number in line.rounds:
        level = line.level(number)
        if number and (spread := paired(level, run.main.level(0), value or measure.of)):
            share = density(level)
            yield Difference(run.name, line.title, "dense", number, share, measure, spread)


def side_by_side(found: Sequence[Difference]) -> Grid:
    """Return differences with a line for each level and a column for each comparison."""
    columns = list(dict.fromkeys(d.title for d in found))
    lines = [
        [
            per_cent(density),
            *(d.spread.told(d.measure.decimals) if (d := at.get(c)) else "" for c in columns),
        ]
        for density, at in by_density((d.density, d.title, d) for d in found)
    ]
    return Grid(["weights left, %", *columns], lines)


def as_csv(found: Sequence[Difference]) -> str:
    """Return the differences with plain numbers."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [*("run", "first", "second", "round", "density_percent", "measure"), *_NUMBERS, "decided"]
    )
    for d in found:
        share, name = plain_number(100 * d.density), d.name + d.measure.difference_unit
        decided = str(d.spread.decided()).lower()
        writer.writerow(
            [d.run, d.first, d.second, d.round, share, name, *numbers(d.spread), decided]
        )
    return file.getvalue()


def as_markdown(found: Sequence[Difference]) -> str:
    """Return the differences in Markdown."""
    several = len({d.run for d in found}) > 1
    head = ["difference", "measure", "weights left, %", "mean ± std", "95 % interval", "n", ""]
    lines = [
        [
            f"{d.run}: {d.title}" if several else d.title,
            d.name + (", pp" if d.measure.percent else ""),
            per_cent(d.density),
            d.spread.text(d.measure.decimals, "+"),
            d.spread.between(d.measure.decimals),
            str(d.spread.n),
            "decided" if d.spread.decided() else "not decided",
        ]
        for d in found
    ]
    return markdown(Grid(head, lines, left=2))
