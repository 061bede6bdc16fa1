from __future__ import annotations

import math

import pytest

from ltpl.models.options import above_zero, below_one, blocks, one_of, whole, widened


@pytest.mark.parametrize(
    ("given", "hint"),
    [("imagnet", " Did you mean 'imagenet'?"), ("CIFAR", " Did you mean 'cifar'?"), ("zzz", "")],
)
def test_an_unknown_name_is_told_with_the_nearest(given: str, hint: str) -> None:
    with pytest.raises(ValueError, match="are known") as raised:
        one_of("stem", given, {"imagenet": 1, "cifar": 2})
    assert str(raised.value) == f"stem={given!r}: imagenet, cifar are known.{hint}"


@pytest.mark.parametrize("given", [12, 1, 110, True, None])
def test_an_unknown_number_is_told_without_a_guess(given: int) -> None:
    with pytest.raises(ValueError, match="are known") as raised:
        one_of("depth", given, [1, 11, 13] if given is True else [11, 13])
    assert str(raised.value).endswith("11, 13 are known.")


def test_what_is_known_is_returned() -> None:
    assert one_of("depth", 11, (11, 13)) == 11
    assert whole("outputs", 3) == 3
    assert above_zero("width", 0.5) == 0.5
    assert below_one("dropout", 0) == 0


@pytest.mark.parametrize("given", [-0.1, 1, 1.5, math.nan, "0.5", False, None])
def test_a_share_is_below_one(given: float) -> None:
    with pytest.raises(ValueError, match="dropout") as raised:
        below_one("dropout", given)
    assert str(raised.value) == f"dropout={given!r}: a number is wanted, 0 <= dropout < 1."


@pytest.mark.parametrize("given", [2, 1, 0, -4, 21, 8.0, "20", None, False])
def test_a_depth_that_does_not_fit_is_told(given: int) -> None:
    with pytest.raises(ValueError, match="depth") as raised:
        blocks(given, layers=6, others=2, usual="20 or 32")
    assert str(raised.value) == f"depth={given!r}: 6n + 2 is wanted, such as 20 or 32."


def test_a_depth_that_fits_gives_the_blocks_of_a_stage() -> None:
    assert [blocks(depth, 6, 2, "") for depth in (8, 20, 110)] == [1, 3, 18]
    assert [blocks(depth, 9, 2, "") for depth in (11, 20, 164)] == [1, 2, 18]


def test_widths_are_rounded_and_at_least_one() -> None:
    assert widened(0.1, 4, 16, 64) == [1, 2, 6]
    assert widened(1.5, 16, 32) == [24, 48]
