"""Latency: what it does not change, and what it counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ltpl.compaction.latency import denormals, latency

SMALL = 1e-39  # of float32


def flushes() -> bool:
    return not bool(torch.tensor(1e-310, dtype=torch.float64) * 1.0)


class Notes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(4, 4), nn.Dropout()
        self.seen: list[tuple[bool, bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, flushes(), torch.is_inference_mode_enabled()))
        return self.drop(self.layer(x))


@pytest.mark.parametrize("before", [False, True])
def test_networks_are_timed_in_turn_and_left_as_they_were(before: bool) -> None:
    one, other = Notes(), Notes()
    one.drop.eval()
    modes = [m.training for m in one.modules()]
    torch.set_flush_denormal(before)
    try:
        found = latency({"one": one, "other": other}, (torch.rand(2, 4),), repeats=5, warm_up=2)
        assert flushes() == before
    finally:
        torch.set_flush_denormal(False)
    assert len(one.seen) == len(other.seen) == 7
    assert set(one.seen) == {(False, True, True)}
    assert [m.training for m in one.modules()] == modes
    assert other.training
    assert all(0 < t.low <= t.median <= t.high for t in found.values())


def test_it_is_left_as_it_was_when_a_network_fails() -> None:
    net = Notes()
    with pytest.raises(RuntimeError):
        latency({"net": net}, (torch.rand(2, 5),))
    assert net.training
    assert not flushes()


def test_too_few_repeats_are_one_clear_error() -> None:
    with pytest.raises(ValueError, match="repeats=1: at least 2"):
        latency({}, (), repeats=1)


@pytest.mark.parametrize("flushed", [False, True])
def test_numbers_too_small_are_counted(flushed: bool) -> None:
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[SMALL, 0.0, 1.0], [-SMALL, 2.0, 1e-38]]))
        net.bias.fill_(0)
    net.register_parameter("count", nn.Parameter(torch.ones(2, dtype=torch.int64), False))
    torch.set_flush_denormal(flushed)
    try:
        assert denormals(net) == 3
    finally:
        torch.set_flush_denormal(False)
