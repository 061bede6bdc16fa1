"""Compaction in the middle of training: averages, numbers in code, new biases, compilers."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
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
    vivid,
)

from ltpl.compaction import CompactionError
from ltpl.compaction.live import compact_
from ltpl.masks import Mask


def test_an_average_that_would_lose_other_channels_is_refused() -> None:
    net = convolutional()
    ema = AveragedModel(net)
    with torch.no_grad():
        net[0].weight[:4] = 0
        net[1].bias[:4] = net[1].running_mean[:4] = 0
    before = everything(net), everything(ema)
    with pytest.raises(CompactionError, match="averaged copy of the network would lose other"):
        compact_(net, None, batches(1)[0][0], [], [ema])
    assert same(before, (everything(net), everything(ema)))


@pytest.mark.parametrize("wrapped", [True, False])
def test_averages_follow(wrapped: bool) -> None:
    masked, small, mask = halfway(OPTIMIZERS["adam"])
    emas = [
        AveragedModel(run.net, avg_fn=get_ema_avg_fn(0.8), use_buffers=True)
        for run in (masked, small)
    ]
    for ema, run in zip(emas, (masked, small), strict=True):
        run.step(*batches(1)[0])
        run.net.load_state_dict(masked.net.state_dict())
        ema.module.load_state_dict(masked.net.state_dict())
    small.optimizers[0].load_state_dict(copy.deepcopy(masked.optimizers[0].state_dict()))
    average = emas[1] if wrapped else emas[1].module
    compact_(small.net, mask, batches(1)[0][0], small.optimizers, [average])
    x = batches(1)[0][0]
    for batch in batches():
        for ema, run in zip(emas, (masked, small), strict=True):
            run.step(*batch)
            ema.update_parameters(run.net)
    assert float((outputs(emas[0], x) - outputs(emas[1], x)).abs().max()) < EQUAL
    assert emas[1].module[0].out_channels == 4


class Counting(nn.Module):
    """Says the number of its features itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.head = nn.Linear(96, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().view(-1, 96))


def test_numbers_in_its_own_code_follow_in_averages_too() -> None:
    net = vivid(Counting())
    ema = AveragedModel(net)
    mask, x = channels(net), batches(1)[0][0]
    expected = copy.deepcopy(net)
    mask.apply_(expected)
    small, _ = compact_(net, mask, x, [], [ema])
    for found in (small, ema):
        assert float((outputs(found, x) - outputs(expected, x)).abs().max()) < EQUAL
    assert ema.module.head.in_features == small.head.in_features == 48
    ema.update_parameters(small)


def test_it_can_stay_the_same_object() -> None:
    net = vivid(Counting())
    mask, x = channels(net), batches(1)[0][0]
    small, _ = compact_(net, mask, x, keep_root=True)
    assert small is net
    assert net.head.in_features == 96


def folding(frozen: bool = False) -> tuple[nn.Sequential, Mask]:
    """Neurons that are pruned away say sigmoid(0) to a layer without bias."""
    net = nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.Sigmoid(), nn.Linear(6, 5, bias=False), nn.Linear(5, 3)
    ).double()
    net[2].weight.requires_grad_(not frozen)
    keep = torch.ones(6, 4, dtype=torch.bool)
    keep[:3] = False
    return net, Mask({"0.weight": keep})


def test_a_new_bias_trains_beside_its_weight_and_comes_after_it() -> None:
    net, mask = folding()
    groups = [{"params": [net[0].weight]}, {"params": [*net[2].parameters(), *net[3].parameters()]}]
    optimizer = optim.Adam(groups, lr=0.01)
    run = Run(net, lambda _: [optimizer])
    x, y = torch.randn(5, 4).double(), torch.randint(3, (5,))
    run.step(x, y)
    masked = copy.deepcopy(net)
    mask.apply_(masked)
    compact_(net, mask, x, [optimizer])
    assert float((outputs(net, x) - outputs(masked, x)).abs().max()) < EQUAL
    expected = [[net[0].weight], [net[2].weight, net[2].bias, net[3].weight, net[3].bias]]
    for group, parameters in zip(optimizer.param_groups, expected, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in parameters]
    before = net[2].bias.detach().clone()
    run.step(x, y)
    assert not torch.equal(net[2].bias, before)
    fresh = optim.Adam([{"params": group} for group in expected], lr=0.01)
    fresh.load_state_dict(optimizer.state_dict())
    slots = fresh.state[net[3].weight]["exp_avg"], optimizer.state[net[3].weight]["exp_avg"]
    assert torch.equal(*slots)


def test_the_new_bias_of_a_frozen_weight_is_frozen() -> None:
    net, mask = folding(frozen=True)
    compact_(net, mask, torch.randn(5, 4).double())
    assert not net[2].bias.requires_grad


def test_buffers_that_are_not_saved_get_smaller() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
            self.register_buffer("scale", torch.rand(6, 1, 1), persistent=False)
            self.last = nn.Conv2d(6, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.norm(self.conv(x)) * self.scale).relu()).flatten(1)

    net = vivid(Scaled())
    mask, x = channels(net), batches(1)[0][0]
    masked = copy.deepcopy(net)
    mask.apply_(masked)
    compact_(net, mask, x)
    assert net.scale.shape == (3, 1, 1)
    assert float((outputs(net, x) - outputs(masked, x)).abs().max()) < EQUAL


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("literal", [False, True])
def test_a_compiled_network_compiles_itself_anew(literal: bool) -> None:
    if literal:
        net = vivid(Counting())
    else:
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        net = vivid(net)
    x = torch.randn(5, 2, 6, 6).double() if literal else torch.randn(5, 4).double()
    y = torch.randint(3, (5,))
    make = partial(one, optim.Adam)()
    masked, small = Run(net, make), Run(copy.deepcopy(net), make)
    compiled = torch.compile(small.net, backend="aot_eager")
    small.net = compiled
    for run in (masked, small):
        run.step(x, y)
    mask = channels(net)
    masked.mask(mask)
    found, _ = compact_(compiled, mask, x, small.optimizers)
    assert found is compiled
    for _ in range(3):
        assert abs(masked.step(x, y) - small.step(x, y)) < EQUAL
    assert sum(p.numel() for p in compiled.parameters()) < sum(p.numel() for p in net.parameters())
