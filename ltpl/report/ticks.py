"""Ticks: at which values of an axis labels have room."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from ltpl.report.looks import FONT
from ltpl.report.spread import per_cent


def density_ticks(densities: Iterable[float], width: float) -> list[float]:
    """Return the densities whose labels have room on a logarithmic axis, from dense to sparse.

    Args:
        densities: Every density that is drawn.
        width: Length of the axis in points.
    """
    levels = sorted({d for d in densities if d > 0}, reverse=True)
    if not levels:
        return []
    span = math.log(levels[0] / levels[-1]) or 1.0

    def fitting(order: Sequence[float]) -> list[float]:
        kept = with_room(order, per_cent, lambda d: width * math.log(levels[0] / d) / span)
        return sorted(kept, reverse=True)

    most = fitting([levels[0], levels[-1], *levels])
    for stride in range(1, len(levels)):  # every second level, say, reads better than a few gaps
        regular = levels[::stride]
        if len(fitting(regular)) == len(regular):
            ticks = fitting([*regular, levels[-1], *levels])
            return ticks if 2 * len(ticks) >= len(most) else most
    return most


def with_room(
    order: Sequence[float], label: Callable[[float], str], place: Callable[[float], float]
) -> list[float]:
    """Return the values whose labels do not meet; of two that do, the one that comes first.

    Args:
        order: The values.
        label: How a value is written.
        place: Where it stands, in points.
    """
    kept: list[float] = []
    sides: list[tuple[float, float]] = []
    for value in order:
        half = 0.33 * FONT * (len(label(value)) + 1)  # a digit is 0.64 em wide; one for air
        left, right = place(value) - half, place(value) + half
        if all(right < a or b < left for a, b in sides):
            kept.append(value)
            sides.append((left, right))
    return kept


def share_ticks(lowest: float) -> list[float]:
    """Return round shares from `lowest` to 1 for a logarithmic axis."""
    choices = (
        (1,),
        (1, 2, 5),
        (1, 1.5, 2, 3, 4, 5, 6, 8),
        tuple(k / 4 for k in range(4, 40)),
    )
    ticks: list[float] = [1.0]
    for steps in choices:
        powers = range(math.floor(math.log10(lowest)), 1)
        ticks = [s * 10.0**p for p in powers for s in steps]
        ticks = [t for t in ticks if lowest * 0.999 <= t <= 1]
        if len(ticks) >= 4:
            break
    return ticks
