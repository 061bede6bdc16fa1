from __future__ import annotations

import math
import random

import pytest

from ltpl.report.interval import interval


def test_the_interval_lies_around_the_mean() -> None:
    low, high = interval([1, 2, 3, 4]) or (0, 0)
    assert (low, high) == pytest.approx((2.5 - 2.0542, 2.5 + 2.0542), abs=1e-4)


def test_equal_values_leave_no_doubt_and_a_single_one_leaves_all() -> None:
    assert interval([0.5] * 3) == (0.5, 0.5)
    assert interval([0.5]) is None
    assert interval([]) is None


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_not_finite_has_no_ends(odd: float) -> None:
    assert all(map(math.isnan, interval([1, odd, 2]) or (0, 0)))


def test_19_of_20_intervals_hold_the_true_mean() -> None:
    rng = random.Random(0)
    ends = [interval([rng.gauss(3, 2) for _ in range(4)]) for _ in range(4000)]
    assert sum(low <= 3 <= high for low, high in ends) / len(ends) == pytest.approx(0.95, abs=0.015)
