"""Compaction in the middle of training: the small network trains on as the masked one would."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel
from training import (
    EQUAL,
    OPTIMIZERS,
    Run,
    batches,
    channels,
    convolutional,
    everything,
    halfway,
    one,
    outputs,
    same,
)

from ltpl.compaction import CompactionError
from ltpl.compaction.live import compact_
from ltpl.masks import Mask


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_on_as_the_masked_network_does(name: str) -> None:
    masked, small, mask = halfway(OPTIMIZERS[name])
    parameters = list(small.net.parameters())
    net, found = compact_(small.net, mask, batches(1)[0][0], small.optimizers)
    assert net is small.net
    assert all(p is q for p, q in zip(net.parameters(), parameters, strict=True))
    assert [net[0].out_channels, net[1].num_features, net[3].in_channels] == [4, 4, 4]
    assert found.remaining(mask).density == 1
    for x, y in batches():
        assert abs(masked.step(x, y) - small.step(x, y)) < EQUAL
    x = batches(1)[0][0]
    assert float((outputs(masked.net, x) - outputs(net, x)).abs().max()) < EQUAL


def test_without_its_slots_it_would_train_otherwise() -> None:
    masked, small, mask = halfway(OPTIMIZERS["adam"])
    compact_(small.net, mask, batches(1)[0][0])
    small.optimizers = OPTIMIZERS["adam"](small.net)
    apart = [abs(masked.step(x, y) - small.step(x, y)) for x, y in batches()]
    assert max(apart) > 1e-4


def test_slots_lose_what_their_parameters_lose() -> None:
    _, small, mask = halfway(OPTIMIZERS["adamw, amsgrad"])
    compact_(small.net, mask, batches(1)[0][0], small.optimizers)
    for parameter in small.net.parameters():
        slots = small.optimizers[0].state[parameter]
        assert {tuple(s.shape) for s in slots.values()} == {(), tuple(parameter.shape)}


def test_gradients_that_are_being_summed_up_follow() -> None:
    masked, small, mask = halfway(OPTIMIZERS["adam"])
    first, second = batches(2)
    mask.apply_(small.net)
    small.optimizers[0].load_state_dict(copy.deepcopy(masked.optimizers[0].state_dict()))
    for run in (masked, small):
        run.step(*first, accumulate=True)
    compact_(small.net, mask, batches(1)[0][0], small.optimizers)
    for batch in (second, *batches()):
        assert abs(masked.step(*batch) - small.step(*batch)) < EQUAL


def test_a_graph_that_somebody_holds_does_not_matter() -> None:
    masked, small, mask = halfway(OPTIMIZERS["sgd"])
    x, y = batches(1)[0]
    held = [cross_entropy(small.net.train()(x), y)]
    masked.net(x)
    compact_(small.net, mask, x, small.optimizers)
    assert abs(masked.step(x, y) - small.step(x, y)) < EQUAL
    assert held


def test_hooks_on_parameters_stay() -> None:
    _, small, mask = halfway(OPTIMIZERS["sgd"])
    seen: list[tuple[int, ...]] = []
    small.net[0].weight.register_hook(lambda gradient: seen.append(tuple(gradient.shape)))
    weight = small.net[3].weight
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.grad.shape)))
    compact_(small.net, mask, batches(1)[0][0], small.optimizers)
    small.step(*batches(1)[0])
    assert sorted(seen) == [(3, 4, 3, 3), (4, 2, 3, 3)]


def test_the_state_of_an_optimiser_goes_into_a_new_one() -> None:
    _, small, mask = halfway(OPTIMIZERS["adam"])
    net, _ = compact_(small.net, mask, batches(1)[0][0], small.optimizers)
    other = Run(copy.deepcopy(net), OPTIMIZERS["adam"])
    other.optimizers[0].load_state_dict(copy.deepcopy(small.optimizers[0].state_dict()))
    for x, y in batches():
        assert small.step(x, y) == other.step(x, y)


class Sam(optim.Optimizer):
    """Holds another optimiser, and shares its state."""

    def __init__(self, parameters: Any, lr: float):
        self.held = optim.SGD(parameters, lr, momentum=0.9)
        super().__init__(self.held.param_groups, {"lr": lr})
        self.state, self.param_groups = self.held.state, self.held.param_groups

    def step(self) -> None:
        self.held.step()


def test_an_optimiser_that_holds_another_is_followed_once() -> None:
    masked, small, mask = halfway(lambda net: [Sam(net.parameters(), 0.05)])
    compact_(small.net, mask, batches(1)[0][0], small.optimizers)
    for x, y in batches():
        assert abs(masked.step(x, y) - small.step(x, y)) < EQUAL


class Closed(Run):
    """For optimisers that call the loss themselves."""

    def step(self, x: Tensor, y: Tensor, accumulate: bool = False) -> float:
        def closure() -> Tensor:
            self.optimizers[0].zero_grad()
            loss = cross_entropy(self.net(x), y)
            loss.backward()
            return loss

        return float(self.optimizers[0].step(closure).detach())


@pytest.mark.parametrize(
    ("kind", "slot"),
    [(optim.Adafactor, "row_var"), (optim.LBFGS, "al")],
    ids=["Adafactor", "LBFGS"],
)
def test_slots_of_other_shapes_are_refused_before_anything_changes(kind: Any, slot: str) -> None:
    net = convolutional()
    small = (Closed if kind is optim.LBFGS else Run)(net, one(kind))
    ema = AveragedModel(net)
    for x, y in batches(2):
        small.step(x, y)
        ema.update_parameters(net)
    x = batches(1)[0][0]
    before = everything(net, small.optimizers), everything(ema)
    with pytest.raises(CompactionError, match=f"{kind.__name__} keeps '{slot}' for") as error:
        compact_(net, channels(net), x, small.optimizers, [ema])
    assert "\n" not in str(error.value)
    assert same(before, (everything(net, small.optimizers), everything(ema)))


class Refused(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


def test_nothing_changes_when_it_cannot_be_done() -> None:
    net = nn.Sequential(*convolutional(), Refused()).double()
    small = Run(net, OPTIMIZERS["adam"])
    small.step(*batches(1)[0])
    small.step(*batches(1)[0], accumulate=True)
    ema = AveragedModel(net)
    before = everything(net, small.optimizers), everything(ema)
    random = torch.get_rng_state()
    mask = channels(net)
    torch.set_rng_state(random)
    with pytest.raises(CompactionError, match="cumsum"):
        compact_(net, mask, torch.zeros(5, 2, 6, 6).double(), small.optimizers, [ema])
    assert same(before, (everything(net, small.optimizers), everything(ema)))
    assert torch.equal(random, torch.get_rng_state())


def test_a_second_pruning_is_removed_too() -> None:
    masked, small, mask = halfway(OPTIMIZERS["adam"])
    example = batches(1)[0][0]
    _, first = compact_(small.net, mask, example, small.optimizers)
    for x, y in batches(2):
        masked.step(x, y)
        small.step(x, y)
    dense = dict(mask)
    more = {}
    for name in mask:
        places = dense[name].nonzero().view(-1)
        dense[name] = dense[name].clone()
        dense[name][places[0]] = False
        more[name] = torch.arange(len(places)) > 0
    masked.unmask()
    masked.mask(Mask(dense))
    compact_(small.net, Mask(more), example, small.optimizers)
    assert small.net[0].out_channels == 3
    for x, y in batches():
        assert abs(masked.step(x, y) - small.step(x, y)) < EQUAL
    assert first.kept


def test_frozen_parameters_get_smaller_and_stay_frozen() -> None:
    net = convolutional()
    net[0].weight.requires_grad_(False)
    masked, small, mask = halfway(
        lambda net: [optim.SGD([p for p in net.parameters() if p.requires_grad], 0.05)], net
    )
    compact_(small.net, mask, batches(1)[0][0], small.optimizers)
    assert small.net[0].weight.shape[0] == 4
    assert not small.net[0].weight.requires_grad
    for x, y in batches():
        assert abs(masked.step(x, y) - small.step(x, y)) < EQUAL
