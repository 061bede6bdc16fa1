"""Kill runs at random moments; what comes out has to be the same bits.

    python -m tests.rounds.killing --kills 100 --folder /tmp/killed

Rounds, branches, slimming that an early-bird rule ends, and rounds in two processes, of which one
or both are killed. Each process is forked from one that has only imported, so that kills fall into
the work and not into imports.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from ltpl.callbacks import EarlyBird, NetworkSlimming, PruneAtEpoch, RewindToEpoch
from ltpl.rounds import leaving
from ltpl.rounds.branch import Branch
from ltpl.rounds.branches import run_branch
from ltpl.rounds.find import InPython
from ltpl.rounds.plan import Plan
from ltpl.rounds.run import run_rounds
from ltpl.tickets.files import stored_digest

EPOCHS = 12
EX_LOST = 3  # a process ended because another was gone
LEFT = 3.0  # seconds that a process may outlive another
MOST = 300.0  # seconds that any of this may take


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


OPTIONS = {"max_epochs": EPOCHS, "accelerator": "cpu", "log_every_n_steps": 5}
DDP = {**OPTIONS, "strategy": "ddp", "devices": 2}


def experiment(prune: PruneAtEpoch | None = None, **trainer: Any) -> InPython:
    rewind = RewindToEpoch(at="1ep5it", optimizer="restored")
    return InPython(
        Everything, Noisy, prune or PruneAtEpoch(amount=0.5), rewind, {**OPTIONS, **trainer}
    )


def plan(folder: Path) -> Plan:
    return Plan(run=str(folder), levels=2, save_every_n_steps=7, report=False, quiet=True)


def rounds(folder: Path) -> None:
    """Two prunings, with a late rewinding point."""
    run_rounds(experiment(), plan(folder), [0])


def branches(folder: Path) -> None:
    """Two branches of a finished run; one trains another rewinding point first."""
    run_branch(experiment(), Branch("finetune", report=False, quiet=True), folder)
    late = InPython(
        Everything, Noisy, PruneAtEpoch(amount=0.5), RewindToEpoch(at="3ep"), dict(OPTIONS)
    )
    run_branch(late, Branch("late", "rewind", report=False, quiet=True), folder)


def slimming(folder: Path) -> None:
    """Channels go; an early-bird rule ends each training and keeps its ticket."""
    bird = EarlyBird(0.5, 0.2, window=2, action="stop")
    run_rounds(
        experiment(NetworkSlimming(1e-3, 0.3, of="remaining"), callbacks=[bird]), plan(folder), [0]
    )


def processes(folder: Path) -> None:
    """Rounds in two processes."""
    run_rounds(experiment(**DDP), plan(folder), [0])


WORK: dict[str, Callable[[Path], None]] = {
    "rounds": rounds,
    "branches": branches,
    "slimming": slimming,
    "processes": processes,
}


def start(work: Callable[[Path], None], folder: Path, rank: int, port: int) -> int:
    """Fork a process that does the work; return its number."""
    if child := os.fork():
        return child
    try:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        if work is processes:
            os.environ.update(RANK=f"{rank}", LOCAL_RANK=f"{rank}", WORLD_SIZE="2", GROUP_RANK="0")
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=f"{port}")
            os.environ.update(TORCHELASTIC_RUN_ID="killing", LOCAL_WORLD_SIZE="2")
            rank_zero_only.rank = rank
            leaving.GRACE = 0.1
        work(folder)
        os._exit(0)
    except SystemExit as lost:  # the other process is gone
        os._exit(EX_LOST if lost.code == 1 else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def finished(
    work: Callable[[Path], None], folder: Path, chance: random.Random, seconds: float | None
) -> bool:
    """Work in children; kill one or all of them after so many seconds; say whether they finished.

    Raises:
        RuntimeError: If the work itself failed, or a process did not end when another was killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [start(work, folder, rank, port) for rank in range(1 + (work is processes))]
    codes: dict[int, int] = {}
    began, victims = time.monotonic(), list(children)
    if chance.random() < 0.7:
        victims = [chance.choice(children)]
    while len(codes) < len(children):
        passed = time.monotonic() - began
        if seconds is not None and passed > seconds:
            for child in set(victims) - codes.keys():
                os.kill(child, signal.SIGKILL)
            # what starts processes ends those that are left, as torchrun does
            victims, seconds = children, None if victims == children else seconds + LEFT
        if passed > MOST:
            raise RuntimeError("a process hangs")
        for child in set(children) - codes.keys():
            gone, status = os.waitpid(child, os.WNOHANG)
            if gone:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    if not set(codes.values()) <= {0, -signal.SIGKILL, EX_LOST}:
        raise RuntimeError(f"the work itself failed: {codes}")
    return not any(codes.values())


def bits(folder: Path) -> dict[str, str | None]:
    """Return the digest over all bits of every mask, ticket and trained network."""
    files = sorted(folder.rglob("*.safetensors"))
    return {str(file.relative_to(folder)): stored_digest(file) for file in files}


def kill(name: str, kills: int, chance: random.Random, folder: Path) -> tuple[int, int, int, int]:
    """Return how many kills fell, over how many runs, and how many files of how many differ."""
    work, begin = WORK[name], folder / "begin"
    if work is branches:
        finished(rounds, begin, chance, None)
    else:
        begin.mkdir(parents=True)

    def run(folder: Path, most: float | None) -> bool:
        if not folder.exists():
            shutil.copytree(begin, folder)
        return finished(work, folder, chance, most and chance.uniform(0, most))

    began = time.monotonic()
    run(folder / "whole", None)
    takes, whole = time.monotonic() - began, bits(folder / "whole")
    fell = runs = differ = 0
    while fell < kills:
        here = folder / f"killed_{runs}"
        runs += 1
        while not run(here, takes / 2 if fell < kills else None):
            fell += 1
        found = bits(here)
        wrong = [x for x in whole.keys() | found.keys() if whole.get(x) != found.get(x)]
        if wrong:
            print("differ:", sorted(wrong))
        differ += len(wrong)
        shutil.rmtree(here)
    return fell, runs, len(whole), differ


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    total = wrong = 0
    for number, name in enumerate(WORK):
        share = given.kills // len(WORK) + (number < given.kills % len(WORK))
        fell, runs, files, differ = kill(name, share, chance, given.folder / name)
        print(
            f"{name}: {fell} kills over {runs} runs, {files} files each: {differ} differ",
            flush=True,
        )
        total, wrong = total + fell, wrong + differ
    print(f"{total} kills in all: {wrong} differ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
