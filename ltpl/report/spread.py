"""`Spread`: one measure over the seeds that have it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ltpl.report.student import quantile

CONFIDENCE = 0.95
_ALIKE = 1e-9  # relative: what rounding may make of equal values


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

    def interval(self, among: int = 1) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean by Student's t, or None if the values allow none.

        One seed allows none, nor does one that diverged, nor seeds that all have the same value,
        for they do not show how much seeds differ.

        Args:
            among: The interval of the best of so many is wider, so that it holds for all of them
                together (Bonferroni).
        """
        if self.std is None or not self.std > _ALIKE * max(map(abs, self.values)):
            return None
        if not math.isfinite(self.std):
            return None
        half = quantile(1 - (1 - CONFIDENCE) / among, self.n - 1) * self.std / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    def decided(self, among: int = 1) -> bool:
        """Return whether the interval leaves out 0: whether the sign of a difference is known.

        Args:
            among: See `interval`.
        """
        found = self.interval(among)
        return found is not None and (found[0] > 0 or found[1] < 0)

    def between(self, decimals: int, among: int = 1) -> str:
        """Return the interval as text; nothing if there is none.

        Args:
            decimals: Digits after the point.
            among: See `interval`.

        Example:
            >>> Spread((1.0, 2.0, 3.0)).between(2)
            '-0.48 to +4.48'
        """
        found = self.interval(among)
        if found is None:
            return ""
        while self.decided(among) and not all(round(end, decimals) for end in found):
            decimals += 1  # an end that is not 0 does not look like it
        low, high = (round(end, decimals) + 0.0 for end in found)
        return f"{low:+.{decimals}f} to {high:+.{decimals}f}"

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

    def told(self, decimals: int) -> str:
        """Return a difference: mean ± standard deviation, and the interval behind it.

        Args:
            decimals: Digits after the point.
        """
        between = self.between(decimals)
        return self.text(decimals, "+") + (f" ({between})" if between else "")


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
