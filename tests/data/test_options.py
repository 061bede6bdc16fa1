from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ltpl.data.options import channelwise, choice, share, whole

from .numbered import one_line


def message_of(check: Any, *arguments: Any, **options: Any) -> str:
    return one_line(lambda: check(*arguments, **options))


@pytest.mark.parametrize("value", [2, 5, 9])
def test_a_whole_number_in_range_is_returned(value: int) -> None:
    assert whole("size", value, 2, 9) == value
    assert whole("size", 10**9, 2) == 10**9


@pytest.mark.parametrize("value", [1, 10, -3, 2.0, "4", None, True, [4], float("nan")])
def test_any_other_value_is_named_with_the_range(value: object) -> None:
    expected = f"size={value!r}: a whole number is wanted, 2 to 9."
    assert message_of(whole, "size", value, 2, 9) == expected


@pytest.mark.parametrize("value", [True, False])
def test_yes_and_no_are_no_numbers(value: bool) -> None:
    assert "a whole number is wanted" in message_of(whole, "size", value, 0)
    assert "a share from 0 to 1 is wanted" in message_of(share, "noise", value)


def test_a_whole_number_without_an_upper_limit_says_the_least() -> None:
    assert message_of(whole, "size", 0, 1) == "size=0: a whole number is wanted, at least 1."


@pytest.mark.parametrize("value", [0, 0.0, 0.3, 1, 1.0, np.float64(0.5)])
def test_a_share_is_returned_as_a_float(value: float) -> None:
    found = share("noise", value)
    assert found == value
    assert type(found) is float


@pytest.mark.parametrize("value", [-0.1, 1.0001, 2, "0.5", None, False, float("nan"), float("inf")])
def test_any_other_share_is_named_with_the_range(value: object) -> None:
    expected = f"noise={value!r}: a share from 0 to 1 is wanted."
    assert message_of(share, "noise", value) == expected


def test_an_open_share_does_not_take_its_bound() -> None:
    assert share("part", 1e-9, open_below=True) == 1e-9
    expected = "part=0.0: a share above 0 to 1 is wanted."
    assert message_of(share, "part", 0.0, open_below=True) == expected
    assert share("part", 0.2, least=0.2) == 0.2
    expected = "part=0.2: a share above 0.2 to 1 is wanted."
    assert message_of(share, "part", 0.2, least=0.2, open_below=True) == expected


@pytest.mark.parametrize("value", ["auto", True, False])
def test_a_choice_is_returned(value: object) -> None:
    assert choice("resident", value, ("auto", True, False)) is value


@pytest.mark.parametrize("value", [1, 0, None, 1.0, "true"])
def test_what_only_equals_a_choice_is_none(value: object) -> None:
    expected = f"resident={value!r}: 'auto', True and False are allowed."
    assert message_of(choice, "resident", value, ("auto", True, False)) == expected


def test_a_slip_of_the_pen_is_guessed() -> None:
    expected = "resident='atuo': 'auto' and 'cpu' are allowed. Did you mean 'auto'?"
    assert message_of(choice, "resident", "atuo", ("auto", "cpu")) == expected


def test_a_share_open_above_is_not_all() -> None:
    assert share("part", 1.0, open_below=True) == 1.0
    expected = "part=1.0: a share above 0 to below 1 is wanted."
    assert message_of(share, "part", 1.0, open_below=True, open_above=True) == expected
    expected = "part=1: a share from 0 to below 1 is wanted."
    assert message_of(share, "part", 1, open_above=True) == expected


@pytest.mark.parametrize("value", [0.5, 3, [1, 2, 3], (1.0, 2.5, 3.0), [7], np.float32(2)])
def test_one_number_or_one_per_channel_is_returned(value: object) -> None:
    assert channelwise("std", value, above=0, channels=3) is value


@pytest.mark.parametrize("value", [0, -1.0, [1, 2, 0], "12", [], None, True, float("nan"), [[1]]])
def test_any_other_number_is_named_with_the_bound(value: object) -> None:
    expected = f"std={value!r}: a number above 0 is wanted, or one per channel."
    assert message_of(channelwise, "std", value, above=0) == expected


@pytest.mark.parametrize("value", [[1, 2], [1, 2, 3, 4], [1, 2, float("inf")]])
def test_too_many_or_too_few_numbers_are_counted(value: object) -> None:
    expected = f"mean={value!r}: a number is wanted, or 3 of them, one per channel."
    assert message_of(channelwise, "mean", value, channels=3) == expected
    assert channelwise("mean", [1, 2]) == [1, 2]
