from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ltpl.masks.stability import (
    Detector,
    History,
    largest_distance,
    random_distance,
    threshold,
)


def masks(count: int, bits: int, flips: Sequence[int]) -> list[Tensor]:
    """Random masks, each with so many random bits changed against the one before."""
    drawn = [torch.rand(bits) < 0.5]
    for index in range(count - 1):
        changed = drawn[-1].clone()
        where = torch.randperm(bits)[: flips[index % len(flips)]]
        changed[where] = ~changed[where]
        drawn.append(changed)
    return drawn


def differing(first: Tensor, second: Tensor) -> float:
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    return sum(a != b for a, b in pairs) / len(pairs)


def found_by_paper(drawn: list[Tensor], window: int, eps: float) -> int | None:
    """A queue of the last `window` distances between one epoch and the next, all below eps."""
    queue: list[float] = []
    for epoch in range(2, len(drawn) + 1):
        queue = [*queue, differing(drawn[epoch - 1], drawn[epoch - 2])][-window:]
        if len(queue) == window and max(queue) < eps:
            return epoch
    return None


def found_by_code(drawn: list[Tensor], window: int, eps: float) -> int | None:
    """A queue of the last `window` masks; the newest at most eps from each of the others."""
    queue: list[Tensor] = []
    for epoch, mask in enumerate(drawn, 1):
        queue = [*queue, mask][-window:]
        if len(queue) == window and all(differing(mask, old) <= eps for old in queue[:-1]):
            return epoch
    return None


BY_HAND = {"paper": found_by_paper, "window": found_by_code}


@pytest.mark.parametrize("rule", BY_HAND)
def test_both_rules_are_what_their_definitions_say(rule: str) -> None:
    torch.manual_seed(random.randrange(10**6))
    several = set()
    for _ in range(150):
        window = random.randint(2, 6)
        bits, eps = random.choice([10, 20, 37]), random.choice([0.1, 0.2, 0.3])
        flips = [random.randint(0, 5) for _ in range(8)]
        drawn = masks(16, bits, flips)
        detector = Detector(rule, window, eps)
        news = [detector.add(epoch, mask) for epoch, mask in enumerate(drawn, 1)]
        assert detector.found == BY_HAND[rule](drawn, window, eps)
        assert news.count(True) == (detector.found is not None)
        assert detector.found is None or news[detector.found - 1]
        several.add(detector.found)
    assert len(several) > 3
    assert None in several


def bits(*kept: int) -> Tensor:
    mask = torch.zeros(20, dtype=torch.bool)
    mask[list(kept)] = True
    return mask


def test_masks_that_drift_slowly_are_found_by_the_paper_and_not_by_the_code() -> None:
    drifting = [bits(*range(step, step + 10)) for step in range(8)]
    paper, code = Detector("paper", 3, 0.15), Detector("window", 3, 0.15)
    for epoch, mask in enumerate(drifting, 1):
        paper.add(epoch, mask)
        code.add(epoch, mask)
    assert (paper.found, code.found) == (4, None)


def test_at_the_threshold_the_code_finds_and_the_paper_does_not() -> None:
    alternating = [bits(step % 2) for step in range(8)]  # 2 of 20 bits each time
    found = {}
    for rule in BY_HAND:
        detector = Detector(rule, 2, 0.1)
        for epoch, mask in enumerate(alternating, 1):
            detector.add(epoch, mask)
        found[rule] = detector.found
    assert found == {"paper": None, "window": 2}


def test_the_mask_of_initialisation_is_compared_but_is_no_part_of_the_window() -> None:
    still = torch.rand(40) < 0.5
    for rule, first in (("paper", 4), ("window", 3)):
        detector = Detector(rule, 3, 0.1)
        for epoch in range(6):
            detector.add(epoch, still)
        assert detector.found == first
        assert detector.measured()["to_init"] == 0
    alone = Detector("window", 3, 0.1)
    for epoch in (1, 2):
        alone.add(epoch, still)
    assert "to_init" not in alone.measured()
    assert "to_window" not in alone.measured()


def test_measured_are_the_distances_of_the_newest_mask() -> None:
    drawn = masks(7, 31, [3, 9, 1])
    for rule in BY_HAND:
        detector = Detector(rule, 3, 0.5)
        for epoch, mask in enumerate(drawn):
            detector.add(epoch, mask)
        last = drawn[-1]
        steps = [differing(drawn[i], drawn[i - 1]) for i in (4, 5, 6)]
        older = [differing(last, drawn[i]) for i in (4, 5)]
        assert detector.measured() == {
            "to_previous": differing(last, drawn[-2]),
            "to_window": max(steps if rule == "paper" else older),
            "to_init": differing(last, drawn[0]),
        }


def test_an_epoch_without_a_mask_begins_a_new_window() -> None:
    still = torch.rand(40) < 0.5
    detector = Detector("paper", 2, 0.1)
    for epoch in (1, 2, 4, 5):
        assert not detector.add(epoch, still)
    assert detector.add(6, still)


def test_distances_are_those_of_each_mask_to_each() -> None:
    history, drawn = History(), masks(9, 53, [2, 30])
    for epoch, mask in enumerate(drawn):
        history.add(epoch, mask)
    by_hand = torch.tensor([[differing(a, b) for b in drawn] for a in drawn], dtype=torch.double)
    assert torch.equal(history.distances, by_hand)
    assert all(torch.equal(history.keep(i), mask) for i, mask in enumerate(drawn))


def test_masks_of_another_length_begin_a_new_history() -> None:
    detector = Detector("window", 2, 0.1)
    detector.add(0, torch.rand(10) < 0.5)
    detector.add(1, torch.rand(12) < 0.5)
    assert detector.history.epochs == [1]
    with pytest.raises(ValueError, match="in order"):
        detector.history.add(1, torch.rand(12) < 0.5)


def test_a_history_in_which_a_ticket_was_found_is_kept() -> None:
    detector = Detector("window", 2, 0.1)
    still = torch.rand(10) < 0.5
    assert [detector.add(epoch, still) for epoch in (1, 2)] == [False, True]
    assert not detector.add(3, still[:8])
    assert (detector.found, detector.history.epochs) == (2, [1, 2])


@pytest.mark.parametrize("rule", BY_HAND)
def test_a_restored_detector_goes_on_as_the_first_would_have(rule: str) -> None:
    drawn = masks(14, 64, [9, 4, 2, 1])
    whole = Detector(rule, 4, 0.08)
    for epoch, mask in enumerate(drawn):
        whole.add(epoch, mask)
    for stop in range(1, 13):
        first, second = Detector(rule, 4, 0.08), Detector(rule, 4, 0.08)
        for epoch, mask in enumerate(drawn[:stop]):
            first.add(epoch, mask)
        second.restore(first.state())
        for epoch, mask in enumerate(drawn[stop:], stop):
            second.add(epoch, mask)
        assert second.found == whole.found
        assert torch.equal(second.history.distances, whole.history.distances)
        assert len(first.history.epochs) == stop


def test_random_masks_are_as_far_apart_as_they_should_be() -> None:
    for amount in (0.1, 0.3, 0.5, 0.8):
        first, second = (torch.rand(200_000) >= amount for _ in range(2))
        assert differing(first, second) == pytest.approx(random_distance(amount), abs=0.01)


def test_no_masks_are_further_apart_than_the_largest_distance() -> None:
    for amount in (0.1, 0.3, 0.5, 0.8):
        pruned = round(amount * 100)
        first = torch.arange(100) >= pruned
        second = torch.arange(100) < 100 - pruned
        assert differing(first, second) == pytest.approx(largest_distance(amount))


def test_eps_may_be_a_share_of_the_distance_of_random_masks() -> None:
    for amount in (0.05, 0.3, 0.5, 0.9):
        assert threshold(amount, 0.2, relative=True) == pytest.approx(
            0.2 * 2 * amount * (1 - amount)
        )
    assert threshold(0.3, 0.1) == 0.1


@pytest.mark.parametrize("amount", [0.05, 0.95, 0.02])
def test_eps_that_every_mask_satisfies_is_refused(amount: float) -> None:
    with pytest.raises(ValueError, match=r"always be found.*relative=True"):
        threshold(amount, 0.1)
    assert threshold(amount, 0.1, relative=True) < 0.01


def test_eps_that_random_masks_satisfy_gets_a_warning() -> None:
    with pytest.warns(UserWarning, match="two random masks differ in 0.0991"):
        threshold(0.0523, 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "papre"}, "did you mean 'paper'"),
        ({"window": 0}, "window=0 with rule='paper': a whole number from 1 on"),
        ({"rule": "window", "window": 1}, "a whole number from 2 on"),
        ({"window": 2.5}, "window=2.5"),
        ({"window": True}, "window=True"),
    ],
)
def test_a_wrong_rule_says_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detector(**options)


@pytest.mark.parametrize("eps", [0, -0.1, 1, float("nan")])
def test_eps_is_a_distance(eps: float) -> None:
    for relative in (False, True):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            threshold(0.5, eps, relative)
