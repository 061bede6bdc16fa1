from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ltpl.masks import channel_mask
from ltpl.masks.channels import channels
from ltpl.masks.norms import scaled_norms
from ltpl.models import ResNet

from .scaled import HOLDS


def test_which_layers() -> None:
    net = nn.Sequential(
        nn.Linear(4, 8),
        nn.BatchNorm1d(8),
        nn.LayerNorm(8),
        nn.GroupNorm(2, 8),
        nn.BatchNorm1d(8, affine=False),
        nn.RMSNorm(8),
        nn.BatchNorm1d(8),
        nn.LayerNorm((2, 4)),
    )
    assert list(scaled_norms(net)) == ["1", "6"]
    assert list(scaled_norms(net, ["group", "layer"])) == ["2", "3", "5"]
    assert list(scaled_norms(net, exclude="6")) == ["1"]
    assert list(scaled_norms(net, include=["6"])) == ["6"]
    net[1].weight.requires_grad_(False)
    assert list(scaled_norms(net)) == ["6"]
    assert list(scaled_norms(net, frozen=True)) == ["1", "6"]


def test_statistics_across_channels_are_labelled() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8))
    nn.init.normal_(net[1].weight)
    with pytest.warns(UserWarning, match=r"1: these norms .* compaction cannot remove them"):
        channel_mask(net, 0.5, kinds="layer")


@pytest.mark.filterwarnings(HOLDS)
def test_names_are_those_of_the_plain_network() -> None:
    net = ResNet(depth=8)
    for norm in scaled_norms(net).values():
        nn.init.normal_(norm.weight)
    plain = channel_mask(net, 0.5)
    assert channel_mask(torch.compile(net), 0.5) == plain
    assert plain.keys() == {n for n, _ in net.named_parameters() if "bn" in n or "shortcut.1" in n}
    averaged = nn.ModuleDict({"net": net, "ema": AveragedModel(net)})
    assert all(path.startswith("net.") for path in scaled_norms(averaged))
    assert channels(plain, net).keys() == scaled_norms(net).keys()


def test_a_network_without_norms_is_refused_by_what_was_looked_for() -> None:
    with pytest.raises(ValueError, match=r"of kind batch is left in Linear.*it has none"):
        channel_mask(nn.Linear(3, 3), 0.5)


def test_a_layer_that_is_not_built_yet_is_named() -> None:
    with pytest.raises(ValueError, match="'1' is not initialised yet"):
        channel_mask(nn.Sequential(nn.Linear(3, 3), nn.LazyBatchNorm1d()), 0.5)
