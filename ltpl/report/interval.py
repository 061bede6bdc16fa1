"""The 95 % interval of a mean over seeds, also where all seeds agree."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ltpl.report.student import quantile

LEVEL = 0.95


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the ends of the 95 % interval of the mean; None for fewer than two values.

    Seeds that are all equal have an interval without width: an exact density can agree.

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
    half = quantile(LEVEL, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half
