"""Lazy layers in a plain fit of an unedited project: sized before anything is masked or copied."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tiny import dataset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ltpl.callbacks import (
    FreezeSparsity,
    NetworkSlimming,
    PruneAtEpoch,
    RewindToEpoch,
    Trajectory,
)
from ltpl.callbacks.sizing import lazy
from ltpl.tickets.snapshot import Snapshot

pytestmark = pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")


def sized() -> nn.Sequential:
    layers = [nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)]
    return nn.Sequential(*layers)


def unsized() -> nn.Sequential:
    with warnings.catch_warnings():  # older torch says that lazy modules are new
        warnings.simplefilter("ignore")
        first, norm, last = nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.LazyLinear(3)
    return nn.Sequential(first, norm, nn.ReLU(), nn.Dropout(0.3), last)


class Project:
    """What a module of either package does."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net
        self.calls = 0
        self.optimised: list[int] = []

    def setup(self, stage: str) -> None:
        self.data = dataset()

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.data, batch_size=10, shuffle=True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.net(batch[0])
        self.calls += 1
        loss = cross_entropy(logits, batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        self.optimised = [0 if lazy(self.net) else p.numel() for p in self.parameters()]
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class OfOne(Project, pl.LightningModule):
    pass


class OfOther(Project, lightning.pytorch.LightningModule):
    pass


class Late(OfOne):
    """Builds its network when it is configured."""

    def configure_model(self) -> None:
        if self.net is None:
            self.net = unsized()


class Start(pl.Callback):
    """Copy the weights before the first step, and every batch."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.batches: list[Tensor] = []
        self.states: list[Any] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        self.batches.append(batch[0].clone())
        if not self.weights:
            self.weights = {n: t.clone() for n, t in pl_module.state_dict().items()}
            self.states = [random.random(), np.random.random(), torch.rand(1)]


def options(folder: Path, callbacks: list[Any], **more: Any) -> dict[str, Any]:
    bare = dict.fromkeys(["logger", "enable_progress_bar", "enable_model_summary"], False)
    return {
        **bare,
        "enable_checkpointing": False,
        "max_epochs": 4,
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": folder,
        "callbacks": callbacks,
        **more,
    }


def fit(module: Any, folder: Path, callbacks: list[Any], **more: Any) -> Any:
    package = pl if isinstance(module, pl.LightningModule) else lightning.pytorch
    trainer = package.Trainer(**options(folder, callbacks, **more))
    pl.seed_everything(7, verbose=False)
    trainer.fit(module)
    return trainer


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in module.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def pruned(folder: Path) -> list[Any]:
    return [PruneAtEpoch(epochs=[2], amount=0.5), RewindToEpoch(0, dirpath=str(folder))]


@pytest.mark.parametrize("kind", [OfOne, Late])
def test_a_lazy_network_trains_as_one_with_its_sizes_written_out(
    kind: type[Any], tmp_path: Path
) -> None:
    start = Start()
    module = OfOne(unsized()) if kind is OfOne else Late()
    fit(module, tmp_path / "lazy", [*pruned(tmp_path / "lazy"), start])
    net = sized()
    net.load_state_dict({n.removeprefix("net."): t for n, t in start.weights.items()})
    other, written = Start(), OfOne(net)
    fit(written, tmp_path / "sized", [*pruned(tmp_path / "sized"), other])
    assert equal(start.weights, other.weights)
    assert all(map(torch.equal, start.batches, other.batches))
    assert start.states == other.states
    assert equal(state(module), state(written))
    assert module.calls == written.calls
    if kind is OfOne:
        assert module.optimised == written.optimised


@pytest.mark.parametrize("kind", [OfOne, OfOther])
def test_a_lazy_network_is_rewound_to_its_initial_weights(kind: type[Any], tmp_path: Path) -> None:
    class Stop(pl.Callback, lightning.pytorch.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.current_epoch == 2:
                self.seen = getattr(self, "seen", None) or state(pl_module)

    class Began(Start, lightning.pytorch.Callback):
        pass

    start, stop, callbacks = Began(), Stop(), pruned(tmp_path)
    fit(kind(unsized()), tmp_path, [*callbacks, start, stop])
    snapshot = Snapshot.load(callbacks[1].snapshot_path)
    mask = callbacks[0].mask
    for name, weight in snapshot.weights.items():
        assert torch.equal(weight, start.weights[name])
        keep = mask[name] if name in mask else torch.ones_like(weight).bool()
        assert torch.equal(stop.seen[name], weight * keep)


@pytest.mark.parametrize(
    "callback",
    [Trajectory(), FreezeSparsity(), NetworkSlimming(amount=0.5, epoch=2)],
    ids=lambda callback: type(callback).__name__,
)
def test_every_callback_that_looks_at_weights_sizes_them(callback: Any, tmp_path: Path) -> None:
    module = OfOne(unsized())
    fit(module, tmp_path, [callback], logger=pl.loggers.CSVLogger(tmp_path), log_every_n_steps=1)
    assert module.optimised == [128, 16, 16, 16, 48, 3]


def test_initial_weights_depend_on_the_seed(tmp_path: Path) -> None:
    first, again, other = (Start() for _ in range(3))
    fit(OfOne(unsized()), tmp_path, [PruneAtEpoch(), first])
    fit(OfOne(unsized()), tmp_path, [PruneAtEpoch(), again])
    assert equal(first.weights, again.weights)
    trainer = pl.Trainer(**options(tmp_path, [PruneAtEpoch(), other]))
    pl.seed_everything(8, verbose=False)
    trainer.fit(OfOne(unsized()))
    assert not torch.equal(first.weights["net.0.weight"], other.weights["net.0.weight"])


class ByHand(OfOne):
    def __init__(self) -> None:
        super().__init__(unsized())
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def test_lazy_layers_are_sized_under_manual_optimization_too(tmp_path: Path) -> None:
    start, callbacks, module = Start(), pruned(tmp_path), ByHand()
    fit(module, tmp_path, [*callbacks, start])
    snapshot = Snapshot.load(callbacks[1].snapshot_path)
    assert torch.equal(snapshot.weights["net.0.weight"], start.weights["net.0.weight"])
    assert module.calls == 24


@pytest.mark.parametrize("kind", [OfOne, OfOther])
def test_a_lazy_network_resumes(kind: type[Any], tmp_path: Path) -> None:
    whole = kind(unsized())
    fit(whole, tmp_path, pruned(tmp_path), max_epochs=4)
    half = fit(kind(unsized()), tmp_path, pruned(tmp_path), max_epochs=3)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, callbacks = kind(unsized()), pruned(tmp_path)
    package = pl if kind is OfOne else lightning.pytorch
    trainer = package.Trainer(**options(tmp_path, callbacks, max_epochs=4))
    trainer.fit(resumed, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert trainer.global_step == 24
    assert callbacks[0].mask.density == pytest.approx(0.5, abs=0.01)
    for name, keep in callbacks[0].mask.items():
        weight = resumed.state_dict()[name]
        assert not weight[~keep].count_nonzero()
