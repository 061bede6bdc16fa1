"""Proof: a wrong compaction is never handed over, an odd output never hides one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ltpl.compaction.analysis as analysis
from ltpl.compaction import CompactionError, compact
from ltpl.compaction.proof import Proof, prove
from ltpl.masks import Mask

DATA = (torch.randn(5, 4),)


class Says(nn.Module):
    """Returns what it is told to make of a linear layer."""

    def __init__(self, make: Callable[[Tensor], Any], shift: float = 0.0):
        super().__init__()
        self.linear, self.make, self.shift = nn.Linear(4, 3), make, shift
        nn.init.constant_(self.linear.weight, 0.3)
        nn.init.constant_(self.linear.bias, 0.1)

    def forward(self, x: Tensor) -> Any:
        return self.make(self.linear(x), self.shift)


def proved(make: Callable[..., Any], shift: float, **kind: Any) -> Proof:
    one, other = Says(make).to(**kind), Says(make, shift).to(**kind)
    doubles = copy.deepcopy(one).double(), copy.deepcopy(other).double()
    data = tuple(x.to(**kind) for x in DATA)
    return prove(one, other, doubles, [data], 1e-4)


RETURNS = {
    "tensor": lambda y, s: y + s,
    "second of two": lambda y, s: (y, y + s),
    "dictionary": lambda y, s: {"a": [y + s], "b": None},
    "complex": lambda y, s: torch.complex(y, y + s),
    "whole numbers": lambda y, s: (y, (1000 * (y + s)).long()),
    "beside infinity": lambda y, s: torch.cat([y + s, y * math.inf]),
}


@pytest.mark.parametrize("name", RETURNS)
def test_every_kind_of_output_is_compared(name: str) -> None:
    assert proved(RETURNS[name], 0.0).error == 0
    with pytest.raises(CompactionError, match="differs from the masked one"):
        proved(RETURNS[name], 0.01)


@pytest.mark.parametrize("place", [0, 1])
def test_not_a_number_is_never_equal_to_a_number(place: int) -> None:
    def make(y: Tensor, shift: float) -> list[Tensor]:
        outputs = [y, y.clone()]
        outputs[place] = outputs[place] * (math.nan if shift else 1.0)
        return outputs

    with pytest.raises(CompactionError, match="by nan"):
        proved(make, 1.0)


def test_nothing_to_compare_is_no_proof() -> None:
    with pytest.raises(CompactionError, match="no tensor"):
        proved(lambda y, s: None, 0.0)
    with pytest.raises(CompactionError, match="by nan"):
        proved(lambda y, s: y * math.nan, 0.0)


def test_a_difference_below_the_tolerance_in_single_precision_is_found_in_double() -> None:
    with pytest.raises(CompactionError, match="in float64; 1e-10"):
        proved(lambda y, s: y + s, 1e-6)


def test_another_shape_is_said() -> None:
    with pytest.raises(CompactionError, match=r"cannot run.*shape"):
        proved(lambda y, s: y[1:] if s else y, 1.0)


def test_rounding_of_16_bits_is_no_difference() -> None:
    def make(y: Tensor, shift: float) -> Tensor:
        return y * (1 + shift) if y.dtype == torch.bfloat16 else y

    found = proved(make, 0.02, dtype=torch.bfloat16)
    assert found.error > 1e-3
    assert found.error64 == 0
    with pytest.raises(CompactionError):
        proved(make, 1.0, dtype=torch.bfloat16)


def test_code_that_fixes_a_type_is_compared_in_that_type_alone() -> None:
    found = proved(lambda y, s: y.float() @ torch.ones(3, 3), 0.0)
    assert found.error == 0
    assert "no float64" in str(found) or found.error64 == 0


@pytest.mark.parametrize("network", ["wide", "deep"])
def test_a_live_channel_that_goes_is_refused(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(0.1, 1)
    keep = torch.ones(8, 4, dtype=torch.bool)
    keep[:3] = False
    bias = torch.arange(8) >= 3
    mask, layer = Mask({"0.weight": keep, "0.bias": bias}), net[0]
    before = copy.deepcopy(net.state_dict())
    real = analysis.Analysis.dead

    def too_many(self: analysis.Analysis, name: str) -> Tensor:
        dead = real(self, name).clone()
        if name in ("0.weight", "0.bias"):
            dead[:5] = True
        return dead

    monkeypatch.setattr(analysis.Analysis, "dead", too_many)
    with pytest.raises(CompactionError, match="differs from the masked one"):
        compact(net, mask, (torch.rand(3, 4),))
    assert net[0] is layer
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_error_is_told(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    keep = torch.tensor([True, False, True])
    mask = Mask({"0.weight": keep[:, None].expand(3, 4).clone(), "0.bias": keep})
    with caplog.at_level("INFO", "ltpl.compaction"):
        compact(net, mask, torch.randn(5, 4))
    assert "23 -> 16 parameters; equal to" in caplog.text
