"""The 95 % interval of a mean over seeds: Student's t, exact for every number of seeds."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence

LEVEL = 0.95


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the ends of the 95 % interval of the mean; None for fewer than two values.

    Args:
        values: One a seed.

    Example:
        >>> low, high = interval([1.0, 2.0, 3.0])
        >>> round(low, 2), round(high, 2)
        (-0.48, 4.48)
    """
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    if not math.isfinite(mean):
        return math.nan, math.nan
    half = quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


@functools.cache
def quantile(degrees: int) -> float:
    """Return how far Student's t lies from 0 in 95 % of cases, as long as it is not farther.

    Args:
        degrees: Degrees of freedom: one less than there are values.

    Example:
        >>> round(quantile(4), 3)
        2.776
    """
    low, high = 0.0, math.pi / 2
    for _ in range(64):  # an angle is found to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < LEVEL else (low, middle)
    return math.sqrt(degrees) * math.tan(high)


def _within(angle: float, degrees: int) -> float:
    """Return how likely |t| is below sqrt(degrees) * tan(angle).

    Abramowitz and Stegun (1964), 26.7.3 and 26.7.4: for whole degrees the sum ends.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
