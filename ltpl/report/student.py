"""Student's t: how far the mean of a few seeds may lie from the true one."""

from __future__ import annotations

import math
from functools import lru_cache

_HALVINGS = 60  # of a quarter turn: as fine as a float


def within(t: float, freedom: int) -> float:
    """Return the probability that Student's t lies between -t and t.

    A finite sum for every whole number of degrees of freedom (Abramowitz and Stegun, 26.7.3 and
    26.7.4).

    Args:
        t: At least 0.
        freedom: Degrees of freedom: for the mean of n values n - 1.
    """
    return _within(math.atan(t / math.sqrt(freedom)), freedom)


def _within(angle: float, freedom: int) -> float:
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= square * (k - 1) / k
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total


@lru_cache(maxsize=512)
def quantile(confidence: float, freedom: int) -> float:
    """Return the t within which Student's t lies with this probability, to either side.

    Args:
        confidence: Such as 0.95.
        freedom: Degrees of freedom: for the mean of n values n - 1.

    Example:
        >>> [round(quantile(0.95, n - 1), 3) for n in (2, 3, 5, 30)]
        [12.706, 4.303, 2.776, 2.045]
    """
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return math.tan(high) * math.sqrt(freedom)
