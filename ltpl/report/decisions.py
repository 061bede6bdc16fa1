"""What paired differences decide, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ltpl.report.differences import STEP, Difference
from ltpl.report.spread import Spread, per_cent

_MOST = 3  # levels of a comparison that are told one by one


def told(difference: Difference, first: str | None = None) -> str:
    """Return a difference in a sentence without its full stop: how large it is, and how sure.

    Args:
        difference: What is told.
        first: How to call the first.
    """
    measure, spread = difference.measure, difference.spread
    share = f"At {per_cent(difference.density)} % of the weights"
    if difference.first == "ticket":
        first = first or ("the ticket" if difference.round else "the dense network")
    first = first or difference.first
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
    where = way[spread.mean > 0] if round(spread.mean, measure.decimals) else "from"
    sure = sureness(spread, measure.decimals)
    return f"{share} {first} {does} {amount} {where} {difference.second} {sure}"


def surely(difference: Difference, among: int = 1) -> str:
    """Return a difference in short: mean, interval, n and whether it is decided.

    Args:
        difference: What is told.
        among: It is the best of so many, see `Spread.interval`.
    """
    measure, spread = difference.measure, difference.spread
    mean = f"{spread.mean:+.{measure.decimals}f}{measure.difference_unit}"
    return f"{mean} {sureness(spread, measure.decimals, among)}"


def sureness(spread: Spread, decimals: int, among: int = 1) -> str:
    """Return interval, n and whether the sign is decided.

    Args:
        spread: A difference.
        decimals: Digits after the point.
        among: It is the best of so many, see `Spread.interval`.
    """
    if not math.isfinite(spread.mean):
        return f"(n = {spread.n}): a seed diverged"
    if spread.n == 1:
        return "(n = 1): one seed decides nothing"
    bounds = spread.between(decimals, among)
    wider = f", widened for the choice among {among}" if among > 1 else ""
    interval = f"95 % interval {bounds}{wider}" if bounds else "all seeds alike"
    verdict = "decided" if spread.decided(among) else "not decided"
    return f"({interval}, n = {spread.n}): {verdict}"


def in_words(found: Sequence[Difference]) -> list[str]:
    """Return a comparison in sentences: level by level, or what is decided where there are many.

    Args:
        found: One comparison, level by level.
    """
    if len(found) <= _MOST:  # perhaps none
        return [f"{told(d)}." for d in found]
    return [in_short(found, against(found[0].first, found[0].second))]


def in_short(found: Sequence[Difference], title: str) -> str:
    """Return a comparison in a sentence: what is decided, and differences of some levels.

    Args:
        found: One comparison, level by level.
        title: How to call it.
    """
    shown = ", ".join(map(_level, some(found)))
    shown = shown if len(found) <= _MOST else f"For instance, {shown}"
    counts = sorted({d.spread.n for d in found})
    n = f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
    sure = "95 % intervals, " if counts[-1] > 1 else ""
    return f"{title}: {tally(found)}. {shown} of the weights ({sure}{n})."


def against(first: str, second: str) -> str:
    """Return how a comparison is called at the head of a sentence."""
    return f"{'The ticket' if first == 'ticket' else first} against {second}"


def _level(difference: Difference) -> str:
    spread, measure = difference.spread, difference.measure
    bounds = spread.between(measure.decimals)
    mean = f"{spread.mean:+.{measure.decimals}f}{measure.difference_unit}"
    return f"{mean}{f' ({bounds})' if bounds else ''} at {per_cent(difference.density)} %"


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
