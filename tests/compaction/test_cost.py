"""Parameters and multiply-accumulates, counted by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ltpl.compaction.cost import cost, total
from ltpl.models import LeNet5, ResNet


def conv(inputs: int, outputs: int, kernel: int, side: int) -> int:
    return inputs * outputs * kernel**2 * side**2


def test_lenet_5_by_hand() -> None:
    found = {row.layer: row for row in cost(LeNet5(), (torch.rand(1, 1, 28, 28),))}
    expected = {
        "features.0": (20 * 25 + 20, conv(1, 20, 5, 24)),
        "features.3": (50 * 20 * 25 + 50, conv(20, 50, 5, 8)),
        "hidden.0": (800 * 500 + 500, 800 * 500),
        "output": (5010, 5000),
    }
    assert {name: (row.parameters, row.macs) for name, row in found.items()} == expected


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_resnet_20_by_hand(shortcut: str) -> None:
    row = total(cost(ResNet(20, shortcut=shortcut), (torch.rand(1, 3, 32, 32),)))
    stages = 6 * conv(16, 16, 3, 32)
    stages += conv(16, 32, 3, 16) + 5 * conv(32, 32, 3, 16)
    stages += conv(32, 64, 3, 8) + 5 * conv(64, 64, 3, 8)
    ways = conv(16, 32, 1, 16) + conv(32, 64, 1, 8) if shortcut == "B" else 0
    assert row.macs == conv(3, 16, 3, 32) + stages + ways + 640
    assert row.parameters == {"A": 269_722, "B": 272_474}[shortcut]
    assert row.macs == {"A": 40_551_040, "B": 40_813_184}[shortcut]


def test_groups_and_transposed_convolutions() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4, padding=1), nn.ConvTranspose2d(4, 6, 2, stride=2)
    )
    depthwise, transposed = cost(net, (torch.rand(1, 4, 8, 8),))
    assert depthwise.macs == 4 * 9 * 64
    assert transposed.macs == 4 * 6 * 4 * 64


class Attention(nn.Module):
    """Multiplies without weights of its own, inside a module that has weights and layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        keys, values = (layer(x) for layer in self.layers)
        return self.scale * (keys @ values.T)


def test_layers_inside_a_layer_count_once() -> None:
    rows = {row.layer: row.macs for row in cost(Attention(), (torch.rand(5, 4),))}
    assert rows == {"": 5 * 4 * 5, "layers.0": 5 * 16, "layers.1": 5 * 16}


class Twice(nn.Module):
    """A layer that is called twice, one tied to it, one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.tied, self.never = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.tied.weight = self.one.weight
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.tied(self.one(self.one(x))) @ torch.ones(8, 2)


def test_shared_layers_count_each_call_and_their_weights_once() -> None:
    rows = {row.layer: row for row in cost(Twice(), (torch.rand(1, 8),))}
    assert rows["one"].macs == 2 * 64
    assert rows["never"].macs == 0
    everything = total(list(rows.values()))
    assert everything.parameters == sum(p.numel() for p in Twice().parameters())
    assert everything.macs == 3 * 64 + 16


def test_the_network_is_left_as_it_was() -> None:
    net = ResNet(8)
    net.layer1.eval()
    before = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    random = torch.get_rng_state()
    cost(net, (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),))
    assert all(torch.equal(v, before[0][n]) for n, v in net.state_dict().items())
    assert [m.training for m in net.modules()] == before[1]
    assert torch.equal(random, torch.get_rng_state())


def test_transformer_layers_are_counted_in_evaluation_mode_too() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = total(cost(layer, (torch.randn(1, 5, 8),)))
    assert found.macs >= 5 * (8 * 24 + 8 * 8 + 8 * 16 + 16 * 8)
    assert torch.backends.mha.get_fastpath_enabled()
