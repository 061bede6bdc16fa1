"""Slim on two processes and write what each of them arrives at."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from shrink import Watched, images, size
from tiny import trainer
from torch import nn
from torch.utils.data import DataLoader, Subset

from ltpl.callbacks import CompactAfterPruning, NetworkSlimming


def network() -> nn.Sequential:
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.BatchNorm1d(16),
        nn.Tanh(),
        nn.Linear(16, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, 3),
    )
    for norm in (net[2], net[5]):
        nn.init.uniform_(norm.weight)
    return net


class Shared(Watched):
    """Every second sample is for the second process, in order."""

    def train_dataloader(self) -> DataLoader:
        mine = range(self.global_rank, len(images()), 2)
        return DataLoader(Subset(images(), mine), batch_size=5)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(images(1), batch_size=5)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(float(nn.functional.cross_entropy(self.net(batch[0]), batch[1])))


class NeverWraps(pl.Callback):
    """Lets the network stay unwrapped once it is small."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.strategy.configure_ddp = lambda: None


def fit(folder: Path, kind: str) -> None:
    torch.manual_seed(0)
    callbacks: list[Any] = [NetworkSlimming(0.01, amount=0.5, epoch=1)]
    if kind != "masked":
        callbacks.append(CompactAfterPruning())
    if kind == "never wrapped":
        callbacks.append(NeverWraps())
    run = trainer(
        folder,
        callbacks,
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,
        precision="64-true",
        max_epochs=3,
        num_sanity_val_steps=0,
    )
    module = Shared(network(), torch.optim.Adam, lr=0.01)
    run.fit(module)
    found = {"steps": module.steps, "validated": module.validated, "size": size(module)}
    found["weights"] = {name: p.detach() for name, p in module.named_parameters()}
    torch.save(found, folder / f"{kind}{run.global_rank}.pt")
    os.environ.setdefault("LOCAL_RANK", "0")  # both processes are there for the next fit


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in ("masked", "small", "never wrapped"):
        fit(Path(sys.argv[1]), each)
