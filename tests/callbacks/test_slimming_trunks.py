"""Policies for the trunks of residual networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from slim import fit, norms
from tiny import Tiny, trainer
from torch import Tensor, nn

from ltpl.callbacks import NetworkSlimming
from ltpl.compaction.groups import Coupling
from ltpl.models import ResNet

HOLDS = "ignore:min_keep=.* holds channels back"


class Added(nn.Module):
    """Two layers that are added, and one inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Linear(8, 6), nn.BatchNorm1d(6)
        self.up, self.inner = nn.Linear(6, 10), nn.BatchNorm1d(10)
        self.down, self.last = nn.Linear(10, 6), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)
        for norm in norms(self).values():
            nn.init.normal_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x)).relu()
        return self.head(x + self.last(self.down(self.inner(self.up(x)).relu())))


GRAPH = Coupling(
    units={
        "net.first": torch.arange(6),
        "net.inner": torch.arange(6, 16),
        "net.last": torch.arange(6),
    },
    trunk={
        "net.first": torch.ones(6, dtype=torch.bool),
        "net.inner": torch.zeros(10, dtype=torch.bool),
        "net.last": torch.ones(6, dtype=torch.bool),
    },
    producers={
        "net.first": ("net.stem.weight", 0),
        "net.inner": ("net.up.weight", 0),
        "net.last": ("net.down.weight", 0),
    },
)


@pytest.fixture(params=["given", "found"])
def graph(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added to what: written down here, or found in the network."""
    if request.param == "found":
        pytest.importorskip("ltpl.compaction.groups")
    else:
        monkeypatch.setattr("ltpl.callbacks.slimming.coupled", lambda *_: GRAPH)


@pytest.mark.filterwarnings(HOLDS)
@pytest.mark.usefixtures("graph")
@pytest.mark.parametrize("score", ["gamma", "l1", "taylor"])
def test_an_inner_policy_keeps_the_trunk_and_does_not_count_it(score: str, tmp_path: Path) -> None:
    module = Tiny(Added())
    slimming = NetworkSlimming(amount=0.5, epoch=1, trunk="inner", score=score)
    fit(tmp_path, slimming, module=module, max_epochs=2)
    assert [row.kept for row in slimming.table(module)] == [6, 5, 6]


@pytest.mark.filterwarnings(HOLDS)
@pytest.mark.usefixtures("graph")
@pytest.mark.parametrize("reduction", ["max", "mean", "union"])
def test_a_group_lives_and_dies_together(reduction: str, tmp_path: Path) -> None:
    module = Tiny(Added())
    slimming = NetworkSlimming(amount=0.6, epoch=1, trunk="group", reduction=reduction)
    fit(tmp_path, slimming, module=module, max_epochs=2)
    assert torch.equal(slimming.mask["net.first.weight"], slimming.mask["net.last.weight"])
    gone = 22 - sum(row.kept for row in slimming.table(module))
    assert gone <= 13
    assert gone >= 12 or reduction == "union"


class OfNetwork(Tiny):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net(batch).square().mean()


class OfForward(OfNetwork):
    """Its forward prepares what the network sees."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.unsqueeze(1).repeat(1, 3, 1, 1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).square().mean()


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("with_forward", [False, True])
@pytest.mark.parametrize("trunk", ["inner", "group"])
def test_residual_networks_are_followed(
    trunk: str, with_forward: bool, shortcut: str, tmp_path: Path
) -> None:
    pytest.importorskip("ltpl.compaction.groups")
    net = ResNet(depth=8, shortcut=shortcut)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight)
    slimming = NetworkSlimming(amount=0.3, epoch=1, trunk=trunk)
    module = (OfForward if with_forward else OfNetwork)(net)
    images = torch.rand(4, 8, 8) if with_forward else torch.rand(4, 3, 8, 8)
    run = trainer(tmp_path, [slimming], max_epochs=2)
    run.fit(module, torch.utils.data.DataLoader(images, batch_size=2))
    kept = {row.layer.removeprefix("net."): row for row in slimming.table(module)}
    inner = [row for name, row in kept.items() if name.startswith("layer") and "bn1" in name]
    if trunk == "inner":
        total = sum(row.total for row in inner)
        assert sum(row.kept for row in inner) == total - round(0.3 * total)
        assert all(row.kept == row.total for row in kept.values() if row not in inner)
        return
    mask = slimming.mask
    assert torch.equal(mask["net.bn1.weight"], mask["net.layer1.0.bn2.weight"])
    assert sum(row.total - row.kept for row in kept.values()) <= round(
        0.3 * sum(row.total for row in kept.values())
    )
    if shortcut == "B":
        pair = mask["net.layer3.0.bn2.weight"], mask["net.layer3.0.shortcut.1.weight"]
        assert torch.equal(*pair)
