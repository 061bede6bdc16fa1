"""Pairs: what is compared seed by seed, and at which levels two lines may be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from ltpl.report.lines import Line, Run
from ltpl.report.spread import Spread
from ltpl.tickets.result import Result

_NEAR = 0.01  # relative: lines with ladders of their own hardly meet in the last weight
_OF_ONE_ROUND = 0.05  # channels that are pruned at another epoch hold other numbers of weights


def paired(
    first: Sequence[Result], second: Sequence[Result], value: Callable[[Result], float | None]
) -> Spread | None:
    """Return first - second, once for each seed that has both; None if no seed has.

    Args:
        first: Results, one a seed.
        second: Others, one a seed.
        value: What is compared; None where it was not measured.
    """
    others = {result.seed: value(result) for result in second}
    pairs = [(value(result), others.get(result.seed)) for result in first]
    return Spread.of(a - b for a, b in pairs if a is not None and b is not None)


def density(level: Sequence[Result]) -> float:
    """Return the share of the prunable weights that is left, mean over seeds."""
    return fmean(result.density for result in level)


def alike(line: Line, level: Sequence[Result]) -> list[Result]:
    """Return the level of a line that may be compared with one of another line: as dense.

    Args:
        line: Where to look.
        level: A level of the other line; of one round.

    Returns:
        The results; none if no level has about as many weights.
    """
    wanted, number = density(level), level[0].round
    if not wanted:
        return []

    def apart(other: int) -> float:
        share = density(line.level(other))
        off = abs(math.log(share / wanted)) if share else math.inf
        return off if off <= (_OF_ONE_ROUND if other == number else _NEAR) else math.inf

    nearest = min(line.rounds, key=lambda other: (apart(other), other != number), default=None)
    return [] if nearest is None or apart(nearest) == math.inf else line.level(nearest)


def rival(run: Run, line: Line) -> Line:
    """Return what a branch is compared with: the branch that it was made of, else the main line."""
    of = line.option("of")
    return next((other for other in run.branches if other.branch == of), run.main)
