from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from ltpl.masks import prune
from ltpl.masks.candidate import Candidate, mask_at
from ltpl.masks.channels import channel_mask
from ltpl.masks.watch import Watch


class Around(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def network(trained: bool = True) -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 10, 3),
        nn.BatchNorm2d(10),
        nn.Flatten(),
        nn.Linear(10, 4),
    )
    for norm in (net[1], net[3]) if trained else ():
        nn.init.normal_(norm.weight)
    return net


def test_the_candidate_is_the_mask_that_pruning_would_use() -> None:
    net = network()
    assert Candidate().draw(net, 0.4) == channel_mask(net, 0.4)
    assert Candidate("magnitude").draw(net, 0.4) == prune(net, 0.4)
    chosen = Candidate(include="3", min_keep=2).draw(net, 0.5)
    assert chosen is not None
    assert list(chosen) == ["3.weight", "3.bias"]


def test_constant_scaling_factors_give_no_mask() -> None:
    net = network(trained=False)
    assert Candidate().draw(net, 0.4) is None
    net[1].weight.data.fill_(0.25)  # layers differ, channels do not
    assert Candidate().draw(net, 0.4) is None
    net[3].weight.data[2] = 0.3
    assert Candidate().draw(net, 0.4) is not None


def test_a_channel_is_one_bit_and_a_weight_is_one_bit() -> None:
    net = network()
    mask = Candidate().draw(net, 0.5)
    assert mask is not None
    assert mask.total == 32
    row = Candidate().bits(mask, net)
    assert torch.equal(row, torch.cat([mask["1.weight"], mask["3.weight"]]))
    weights = Candidate("magnitude")
    mask = weights.draw(net, 0.5)
    assert mask is not None
    assert weights.bits(mask, net).numel() == mask.total == 6 * 9 + 60 * 9 + 40


def test_channels_that_are_never_pruned_are_no_bits() -> None:
    net = network()
    units = {"1": torch.full((6,), -1)}
    some = Candidate(units=units)
    mask = some.draw(net, 0.5)
    assert mask is not None
    assert bool(mask["1.weight"].all())
    assert torch.equal(some.bits(mask, net), mask["3.weight"])
    assert int(mask["3.weight"].count_nonzero()) == 5


def test_drawing_changes_nothing_and_warns_of_nothing() -> None:
    net = network()
    net[1].weight.data.mul_(1e-6)  # min_keep has to hold channels back
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert Candidate().draw(net, 0.5) is not None
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("channels", ["gamma", "magnitude"])
def test_a_checkpoint_gives_the_mask_of_its_epoch(channels: str, tmp_path: Path) -> None:
    then = Around(network())
    path = tmp_path / "then.ckpt"
    torch.save({"state_dict": then.state_dict(), "epoch": 10}, path)
    now = Around(network())
    before = {name: value.clone() for name, value in now.state_dict().items()}
    expected = Candidate(channels).draw(then, 0.3)
    assert expected is not None
    assert mask_at(path, now, 0.3, channels=channels) == expected
    inner = mask_at(path, now.network, 0.3, channels=channels)
    assert inner is not None
    assert inner == Candidate(channels).draw(then.network, 0.3)
    assert all(torch.equal(value, before[name]) for name, value in now.state_dict().items())


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"state_dict": Around(nn.Linear(3, 3)).state_dict()}, tmp_path / "other.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match=r"does not fit Around: it has network\.weight"):
        mask_at(tmp_path / "other.ckpt", Around(network()), 0.3)
    with pytest.raises(ValueError, match="no Lightning checkpoint"):
        mask_at(tmp_path / "list.ckpt", Around(network()), 0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": "gama"}, "did you mean 'gamma'"),
        ({"reduction": "min"}, "reduction='min' is not known"),
        ({"kinds": "bach"}, "did you mean 'batch'"),
    ],
)
def test_a_wrong_name_says_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Candidate(**options)


def test_a_watch_restores_what_it_found() -> None:
    net = network()
    first, second = (Watch([0.25, 0.5], Candidate(), "window", 2) for _ in range(2))
    for epoch in (1, 2):
        masks = first.draw(net)
        assert masks is not None
        found = first.add(epoch, masks, net)
    assert found == [0.25, 0.5]
    second.restore(first.state())
    assert second.masks == first.masks == first.draw(net)
    assert second.numbers() == first.numbers()
    with pytest.raises(ValueError, match=r"0\.3 is not watched, but \[0\.25, 0\.5\]"):
        first[0.3]
