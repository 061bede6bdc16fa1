from __future__ import annotations

import pytest
import torch
from torch import nn

from ltpl.masks import Mask
from ltpl.tickets.start import redraw_, reshuffle, sign_constant, starting_weights


def test_sign_constant_has_one_magnitude_a_layer() -> None:
    weight = torch.randn(50, 40)
    constant = sign_constant(weight)
    assert torch.equal(constant.sign(), weight.sign())
    assert constant.abs().unique().numel() == 1
    assert float(constant.abs()[0, 0]) == pytest.approx(float(weight.std(correction=0)))


def test_reshuffle_moves_kept_values_only() -> None:
    weight, keep = torch.randn(30, 30), torch.rand(30, 30) < 0.5
    shuffled = reshuffle(weight, keep, torch.Generator().manual_seed(1))
    assert torch.equal(shuffled[~keep], weight[~keep])
    assert torch.equal(shuffled[keep].sort().values, weight[keep].sort().values)
    assert not torch.equal(shuffled[keep], weight[keep])


def test_layers_of_one_shape_are_shuffled_differently_and_by_seed() -> None:
    weight = torch.randn(20, 20)
    mask = Mask({name: torch.ones(20, 20, dtype=torch.bool) for name in "ab"})
    first = starting_weights({"a": weight, "b": weight}, mask, "reshuffle", seed=1)
    again = starting_weights({"a": weight, "b": weight}, mask, "reshuffle", seed=1)
    other = starting_weights({"a": weight, "b": weight}, mask, "reshuffle", seed=2)
    assert torch.equal(first["a"], again["a"])
    assert not torch.equal(first["a"], first["b"])
    assert not torch.equal(first["a"], other["a"])


class Scaled(nn.Module):
    """Its own initialisation has the last word over that of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(30, 30)
        self.token = nn.Parameter(torch.randn(1, 30))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.layer.bias, 5.0)


def test_a_redraw_is_new_seeded_and_leaves_the_global_state_alone() -> None:
    net = Scaled()
    before, state = net.layer.weight.detach().clone(), torch.get_rng_state()
    token = net.token.detach().clone()
    assert redraw_(net, ["layer.weight"], seed=3) == ["token"]
    first = net.layer.weight.detach().clone()
    assert not torch.isclose(first, before).any()
    assert torch.equal(net.layer.bias, torch.full((30,), 5.0))
    assert torch.equal(net.token, token)
    assert torch.equal(torch.get_rng_state(), state)
    redraw_(net, ["layer.weight"], seed=3)
    assert torch.equal(net.layer.weight, first)


def test_a_redraw_that_cannot_reach_a_weight_changes_nothing() -> None:
    net = Scaled()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    with pytest.raises(ValueError, match="no module around 'token' has reset_parameters"):
        redraw_(net, ["token"], seed=0)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
