"""`Spread`: one measure over the seeds that have it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A measure, once for each seed that has it.

    Args:
        values: One value a seed; at least one.

    Example:
        >>> Spread((1.0, 2.0, 3.0)).text(1)
        '2.0 ± 1.0'
    """

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of the values that there are; None if there are none."""
        found = tuple(float(v) for v in values if v is not None)
        return cls(found) if found else None

    @property
    def n(self) -> int:
        """How many seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over the seeds; not a number where one seed diverged."""
        return sum(self.values) / self.n

    @property
    def std(self) -> float | None:
        """Sample standard deviation; None for a single seed."""
        if self.n < 2:
            return None
        return math.sqrt(sum((v - self.mean) ** 2 for v in self.values) / (self.n - 1))

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.values)

    def text(self, decimals: int, sign: str = "", unit: str = "") -> str:
        """Return mean ± standard deviation, or just the value of a single seed.

        Args:
            decimals: Digits after the point.
            sign: `+` writes the sign of positive means too.
            unit: What stands behind the mean.
        """
        mean = round(self.mean, decimals) + 0.0  # + 0.0: no "-0.00"
        shown = f"{mean:{sign}.{decimals}f}{unit}"
        return shown if self.std is None else f"{shown} ± {self.std:.{decimals}f}"


def per_cent(share: float) -> str:
    """Return a share as the papers print densities: 100, 51.3, 3.6, 0.85.

    Example:
        >>> [per_cent(0.8**k) for k in (0, 3, 15, 25)]
        ['100', '51.2', '3.5', '0.38']
        >>> per_cent(0.8)
        '80.0'
    """
    value = 100 * share
    if value < 1:
        return f"{value:.2g}"
    return "100" if share == 1 else f"{value:.1f}"
