"""Student's t, and what an interval decides."""

from __future__ import annotations

import math
import random

import pytest

from ltpl.report import Spread
from ltpl.report.student import quantile, within

TABLE = {  # two-sided 95 % and 99 %, as printed in any table of Student's t
    1: (12.706, 63.657),
    2: (4.303, 9.925),
    3: (3.182, 5.841),
    4: (2.776, 4.604),
    5: (2.571, 4.032),
    9: (2.262, 3.250),
    10: (2.228, 3.169),
    30: (2.042, 2.750),
    120: (1.980, 2.617),
}


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_the_tables(freedom: int) -> None:
    found = (quantile(0.95, freedom), quantile(0.99, freedom))
    assert found == pytest.approx(TABLE[freedom], abs=6e-4)


def test_many_seeds_give_the_normal_distribution() -> None:
    assert quantile(0.95, 5000) == pytest.approx(1.95996, abs=1e-3)


def test_probability_and_quantile_are_inverse() -> None:
    rng = random.Random()
    for _ in range(50):
        confidence, freedom = rng.uniform(0.01, 0.9999), rng.randrange(1, 60)
        assert within(quantile(confidence, freedom), freedom) == pytest.approx(confidence)


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    rng = random.Random()
    tries, held = 3000, 0
    for _ in range(tries):
        found = Spread(tuple(rng.gauss(7, 3) for _ in range(4))).interval()
        assert found is not None
        held += found[0] <= 7 <= found[1]
    assert held / tries == pytest.approx(0.95, abs=0.025)  # six standard errors


def test_what_allows_no_interval_decides_nothing() -> None:
    for values in [(3.0,), (2.0, 2.0, 2.0), (1.0, math.nan), (1.0, math.inf)]:
        spread = Spread(values)
        assert spread.interval() is None
        assert not spread.decided()
        assert spread.between(2) == ""
    equal_but_for_rounding = Spread((100 * (0.91 - 0.9), 100 * (0.82 - 0.81)))
    assert equal_but_for_rounding.interval() is None


def test_the_best_of_many_needs_a_wider_interval() -> None:
    spread = Spread((0.30, 0.38, 0.35, 0.31))
    alone, among = spread.interval(), spread.interval(among=15)
    assert alone is not None
    assert among is not None
    assert among[0] < alone[0] < alone[1] < among[1]
    assert Spread((1.0, 2.0, 3.0)).decided() is False
    assert Spread((1.0, 1.1, 1.2)).decided() is True
    assert Spread((1.0, 1.1, 1.2)).decided(among=100) is False
    assert Spread((-1.0, -1.1, -1.2)).decided() is True


def test_an_end_that_is_not_zero_does_not_look_like_it() -> None:
    spread = Spread((0.010, 0.018, 0.014))
    assert spread.decided()
    assert spread.between(2) == "+0.004 to +0.024"
    assert Spread((-0.02, 0.02)).text(2, "+") == "+0.00 ± 0.03"
