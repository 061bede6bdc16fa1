"""A small network with BatchNorm, and what `EarlyBird` should find in it, written out by hand."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from tiny import BATCHES, Resumable, Tiny, dataset, trainer
from torch import Tensor, nn

ADAM = partial(torch.optim.Adam)
NORMS = (1, 4)
EPOCHS = 8


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 24),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Linear(24, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


class Birds(Tiny):
    """`Tiny` around this network, with a validation loop."""

    def __init__(self, net: nn.Module | None = None, lr: float = 0.02, **options: Any) -> None:
        super().__init__(net or network(), optimizer=ADAM, lr=lr, **options)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))


class Watcher(pl.Callback):
    """Gammas and weights after each epoch; epoch 0 is initialisation."""

    def __init__(self) -> None:
        self.gammas: list[Tensor] = []
        self.weights: list[dict[str, Tensor]] = []

    def look(self, module: Any) -> None:
        factors = [module.net[i].weight.detach().abs() for i in NORMS]
        self.gammas.append(torch.cat(factors).clone())
        self.weights.append({n: v.clone() for n, v in module.state_dict().items()})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.look(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.look(pl_module)


class Epochs(pl.Callback):
    """Counts the batches of each epoch."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1

    @property
    def trained(self) -> float:
        return self.batches / BATCHES


def masked(gammas: Tensor, amount: float) -> Tensor:
    """Keep the largest, by sorting."""
    order = gammas.sort(stable=True, descending=True).indices
    keep = torch.zeros(len(gammas), dtype=torch.bool)
    keep[order[: len(gammas) - round(amount * len(gammas))]] = True
    return keep


def matrix(masks: list[Tensor]) -> Tensor:
    rows = [[float((a != b).double().mean()) for b in masks] for a in masks]
    return torch.tensor(rows, dtype=torch.double)


def found_by(rule: str, masks: list[Tensor], window: int, eps: float) -> int | None:
    """Return the epoch at which a ticket is found; `masks` begin with that of epoch 1."""
    distances = matrix(masks)
    for last in range(len(masks)):
        if rule == "paper" and last >= window:
            steps = [float(distances[i, i - 1]) for i in range(last - window + 1, last + 1)]
            if max(steps) < eps:
                return last + 1
        if rule == "window" and last >= window - 1:
            older = [float(distances[last, i]) for i in range(last - window + 1, last)]
            if max(older) <= eps:
                return last + 1
    return None


def fit(
    folder: Path,
    *callbacks: Any,
    module: Birds | None = None,
    seed: int | None = None,
    resume: Path | None = None,
    **options: Any,
) -> Birds:
    seed = random.randrange(10**6) if seed is None else seed
    torch.manual_seed(seed)
    module = module or Birds()
    options = {"max_epochs": EPOCHS, **options}
    stop_at = options.pop("stop_at", None)
    runner = trainer(folder, callbacks, **options)
    if stop_at is not None:
        runner.fit_loop.epoch_loop.max_steps = stop_at
    data = Resumable(dataset(seed), batch_size=10)
    check = Resumable(dataset(seed + 1), batch_size=30)
    runner.fit(module, data, check, ckpt_path=resume)
    return module
