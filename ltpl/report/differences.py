"""Paired differences with intervals, and what they decide."""

from __future__ import annotations

import csv
import io
import math
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

_MOST = 3  # levels of a comparison that are told in full
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


def told(difference: Difference, first: str | None = None) -> str:
    """Return a difference in a sentence without its full stop: how large it is, and how sure.

    Args:
        difference: What is told.
        first: How to call the first.
    """
    measure, spread = difference.measure, difference.spread
    share = f"At {per_cent(difference.density)} % of the weights"
    first = first or ("the ticket" if difference.first == "ticket" else difference.first)
    if not math.isfinite(spread.mean):
        return f"{share} {first} and {difference.second} cannot be compared: a seed diverged"
    if measure is STEP:
        amount, way = f"{abs(spread.mean):,.0f} steps", ("before", "after")
        does = "reaches its lowest validation loss"
    else:
        amount = f"{abs(spread.mean):.{measure.decimals}f}{measure.difference_unit}"
        way = ("below", "above")
        does = f"has a {difference.name}"
        if measure.is_accuracy:
            does = "tests" if measure.stage == "test" else "validates"
    where = f"{amount} {way[spread.mean > 0]}" if spread.mean else "just like"
    return f"{share} {first} {does} {where} {difference.second} ({_sure(difference)}"


def _sure(difference: Difference) -> str:
    spread = difference.spread
    between = spread.between(difference.measure.decimals)
    if spread.n == 1:
        return "n = 1): one seed decides nothing"
    interval = f"95 % interval {between}, " if between else "all seeds alike, "
    return f"{interval}n = {spread.n}): {'decided' if spread.decided() else 'not decided'}"


def in_words(found: Sequence[Difference], title: str) -> list[str]:
    """Return a comparison in sentences; where it has many levels, they are counted first.

    Args:
        found: One comparison, level by level.
        title: How to call it.
    """
    counted = [f"{title}: {tally(found)}."] if len(found) > _MOST else []
    return [*counted, *(f"{told(d)}." for d in some(found))]


def some(found: Sequence[Difference]) -> list[Difference]:
    """Return the densest, the sparsest and one between."""
    if len(found) <= _MOST:
        return list(found)
    gap = (len(found) - 1) / (_MOST - 1)
    return [found[round(k * gap)] for k in range(_MOST)]


def tally(found: Sequence[Difference]) -> str:
    """Return at which levels the sign of a comparison is decided, in words.

    Args:
        found: One comparison, level by level.
    """
    levels = [d.density for d in found]
    above = [d.density for d in found if d.spread.decided() and d.spread.mean > 0]
    below = [d.density for d in found if d.spread.decided() and d.spread.mean < 0]
    if max(d.spread.n for d in found) == 1:
        return "one seed decides nothing"
    if not above and not below:
        return "decided at no level" if len(found) > 1 else "not decided"
    way = ("later", "earlier") if found[0].measure is STEP else ("above", "below")
    parts = [
        f"decided {word} at {shares(side, levels)} %"
        for word, side in zip(way, (above, below), strict=True)
        if side
    ]
    open_ = len(found) - len(above) - len(below)
    return ", ".join(parts) + (f", not decided at {_counted(open_, 'level')}" if open_ else "")


def shares(some: Sequence[float], levels: Sequence[float]) -> str:
    """Return densities in per cent, neighbours drawn together.

    Args:
        some: Densities that are among `levels`.
        levels: All of them.

    Example:
        >>> shares([0.8, 0.64, 0.512, 0.2], [0.8, 0.64, 0.512, 0.4, 0.2])
        '80.0 to 51.2 and 20.0'
    """
    order = sorted(set(levels), reverse=True)
    groups: list[list[int]] = []
    for place in sorted(order.index(share) for share in set(some)):
        if groups and groups[-1][-1] == place - 1:
            groups[-1].append(place)
        else:
            groups.append([place])
    said = []
    for group in groups:
        ends = [per_cent(order[place]) for place in group]
        said += [f"{ends[0]} to {ends[-1]}"] if len(ends) > 2 else ends
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


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
