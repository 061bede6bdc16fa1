"""Kill rounds and branches at random moments; what comes out has to be the same bits.

    python -m tests.rounds.killing --kills 20 --folder /tmp/killed

Each process is forked from one that has only imported, so that kills fall into rounds and not into
imports.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from ltpl.rounds.branches import Branch, run_branch
from ltpl.rounds.find import InPython
from ltpl.rounds.plan import Plan
from ltpl.rounds.run import run_rounds
from ltpl.tickets.files import stored_digest

EPOCHS = 12


class Everything(pl.LightningModule):
    """All that a resume can get wrong: dropout, statistics, momentum, a schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 4)
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self.net(batch[0]), batch[1]))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_loss", cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class Noisy(pl.LightningDataModule):
    """A plain shuffled loader whose augmentation draws from the global random state."""

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(640, 16, generator=generator)
        y = (x[:, :4] + 0.5 * torch.randn(640, 4, generator=generator)).argmax(1)
        self.parts = [TensorDataset(x[i::2], y[i::2]) for i in range(2)]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.parts[0], 16, shuffle=True, collate_fn=augmented)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.parts[1], 320)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.parts[1], 320)


def augmented(samples: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    x, y = (torch.stack(part) for part in zip(*samples, strict=True))
    return [x + 0.1 * torch.randn_like(x), y]


def work(folder: Path) -> None:
    """Two rounds of pruning with a late rewinding point, and two branches."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from ltpl.callbacks import PruneAtEpoch, RewindToEpoch

    experiment = InPython(
        Everything,
        Noisy,
        PruneAtEpoch(amount=0.5),
        RewindToEpoch(at="1ep5it", optimizer="restored"),
        {"max_epochs": EPOCHS, "accelerator": "cpu", "log_every_n_steps": 5},
    )
    plan = Plan(run=str(folder), levels=2, save_every_n_steps=7, report=False, quiet=True)
    run_rounds(experiment, plan, [0])
    for kind in ("reinit", "finetune"):
        run_branch(experiment, Branch(kind, report=False, quiet=True), folder)


def forked(folder: Path, seconds: float | None) -> bool:
    """Work in a child; kill it after so many seconds; say whether it had finished."""
    child = os.fork()
    if not child:
        try:
            work(folder)
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    if seconds is not None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if done := os.waitpid(child, os.WNOHANG)[0]:
                return bool(done)
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("the work itself failed")
    return not os.WIFSIGNALED(status)


def bits(folder: Path) -> dict[str, str | None]:
    """Return the digest over all bits of every mask, ticket and trained network."""
    files = sorted(folder.rglob("*.safetensors"))
    return {str(file.relative_to(folder)): stored_digest(file) for file in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    began = time.monotonic()
    forked(given.folder / "whole", None)
    whole, takes = bits(given.folder / "whole"), time.monotonic() - began
    kills, runs, differ = 0, 0, 0
    while kills < given.kills:
        folder = given.folder / f"killed_{runs}"
        runs += 1
        while True:
            left = kills < given.kills
            if forked(folder, chance.uniform(0, takes / 3) if left else None):
                break
            kills += left
        found = bits(folder)
        differ += found.keys() != whole.keys()
        differ += sum(found.get(name) != digest for name, digest in whole.items())
        if differ:
            print(
                "differ:", [n for n in whole if found.get(n) != whole[n]], set(found) ^ set(whole)
            )
        shutil.rmtree(folder)
    print(f"{kills} kills over {runs} runs, {len(whole)} files each: {differ} differ")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
