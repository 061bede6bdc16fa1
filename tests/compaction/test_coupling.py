"""`coupling`: which channels live and die together."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu6

from ltpl.compaction.groups import Coupling, coupling
from ltpl.models import VGG, DenseNet, PreResNet, ResNet

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def coupled(net: nn.Module, *example: Any) -> Coupling:
    norms = [path for path, m in net.named_modules() if isinstance(m, BATCH_NORMS)]
    found = coupling(net, example or (torch.rand(2, 3, 16, 16),), norms)
    assert list(found.units) == list(found.trunk) == norms
    return found


def together(found: Coupling) -> set[frozenset[tuple[str, int]]]:
    """Return the sets of channels that hang together, those that stand alone left out."""
    units: dict[int, set[tuple[str, int]]] = defaultdict(set)
    for path, ids in found.units.items():
        for channel, unit in enumerate(ids.tolist()):
            units[unit].add((path, channel))
    return {frozenset(places) for unit, places in units.items() if len(places) > 1 and unit >= 0}


def stage(number: int) -> list[str]:
    return [f"layer{number}.{block}.bn2" for block in range(3)]


def test_option_b_ties_a_stage_and_its_projection() -> None:
    found = coupled(ResNet(20, shortcut="B"))
    expected = set()
    for number, width in ((1, 16), (2, 32), (3, 64)):
        first = "bn1" if number == 1 else f"layer{number}.0.shortcut.1"
        for channel in range(width):
            expected.add(frozenset((path, channel) for path in (first, *stage(number))))
    assert together(found) == expected
    added = {path for unit in expected for path, _ in unit}
    for path, trunk in found.trunk.items():
        assert bool(trunk.all()) == bool(trunk.any()) == (path in added)


def test_option_a_shifts_the_channels_of_the_stage_before() -> None:
    found = coupled(ResNet(20, shortcut="A"))
    expected = set()
    for channel in range(64):
        places = {(path, channel) for path in stage(3)}
        if 16 <= channel < 48:
            places |= {(path, channel - 16) for path in stage(2)}
        if 24 <= channel < 40:
            places |= {(path, channel - 24) for path in ("bn1", *stage(1))}
        expected.add(frozenset(places))
    assert together(found) == expected


def test_channels_before_an_activation_are_free_in_a_preactivation_network() -> None:
    found = coupled(PreResNet(20))
    assert all(len({path for path, _ in unit}) > 1 for unit in together(found))
    inner = [p for p in found.units if p.endswith(("bn2", "bn3"))]
    for path in inner:
        assert len(found.units[path].unique()) == len(found.units[path])
        assert not found.trunk[path].any()
        assert bool((found.units[path] >= 0).all())


def test_a_plain_network_has_no_groups() -> None:
    found = coupled(VGG(11), torch.rand(2, 3, 32, 32))
    assert not together(found)
    assert not any(bool(t.any()) for t in found.trunk.values())
    assert all(bool((ids >= 0).all()) for ids in found.units.values())
    assert all(dim == 0 for _, dim in found.producers.values())
    assert len(found.producers) == len(found.units)


def test_densely_connected_layers_read_the_same_channels() -> None:
    net = DenseNet(depth=10, growth=4)
    found = coupled(net)
    assert not any(bool(t.any()) for t in found.trunk.values())
    widths = {path: len(ids) for path, ids in found.units.items()}
    assert {p: m.num_features for p, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)} == (
        widths
    )


class Mobile(nn.Module):
    """Expands, filters each channel by itself, projects, adds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.expand, self.bn1 = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)
        self.depthwise, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.project, self.bn3 = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn0(self.stem(x)).relu()
        y = relu6(self.bn2(self.depthwise(relu6(self.bn1(self.expand(x))))))
        return self.head((x + self.bn3(self.project(y))).mean((2, 3)))


def test_a_depthwise_layer_is_tied_to_the_one_before() -> None:
    found = coupled(Mobile())
    pairs = {frozenset({("bn1", c), ("bn2", c)}) for c in range(8)}
    trunk = {frozenset({("bn0", c), ("bn3", c)}) for c in range(4)}
    assert together(found) == pairs | trunk
    assert {p: bool(t.any()) for p, t in found.trunk.items()} == {
        "bn0": True,
        "bn1": False,
        "bn2": False,
        "bn3": True,
    }
    assert found.producers == {
        "bn0": ("stem.weight", 0),
        "bn1": ("expand.weight", 0),
        "bn2": ("depthwise.weight", 0),
        "bn3": ("project.weight", 0),
    }


def test_channels_of_a_group_go_together() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=4),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 196, 2),
    )
    expected = {
        frozenset([*(("1", 2 * g + i) for i in range(2)), *(("4", 3 * g + i) for i in range(3))])
        for g in range(4)
    }
    assert together(coupled(net)) == expected


def test_what_the_network_returns_stays() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))
    net.append(nn.BatchNorm2d(5))
    found = coupled(net)
    assert bool((found.units["4"] == -1).all())
    assert not found.trunk["4"].any()
    assert bool((found.units["1"] >= 0).all())


def test_producers_of_transposed_and_linear_layers() -> None:
    net = nn.Sequential(
        nn.ConvTranspose2d(3, 4, 2),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4 * 289, 6),
        nn.Dropout(),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.BatchNorm1d(6),
        nn.Linear(6, 2),
    )
    found = coupled(net)
    assert found.producers == {"1": ("0.weight", 1), "5": ("3.weight", 0)}
    assert together(found) == {frozenset({("5", c), ("7", c)}) for c in range(6)}


def test_a_layer_without_scales_has_no_channels_to_prune() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 3))
    assert coupled(net).units["1"].numel() == 0


def test_modes_and_buffers_are_left_as_they_were() -> None:
    net = ResNet(8)
    net.layer1.eval()
    modes = [m.training for m in net.modules()]
    before = {n: v.clone() for n, v in net.state_dict().items()}
    random = torch.get_rng_state()
    coupled(net, torch.ones(2, 3, 8, 8))
    assert torch.equal(random, torch.get_rng_state())
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
