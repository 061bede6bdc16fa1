"""A project with a command line of its own, to be trained in several processes."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from ltpl.cli import LotteryCLI

PAUSE = float(os.environ.get("PAUSE", "0"))  # seconds a step, to be hit in time


class Net(pl.LightningModule):
    """In double precision, so that sums over processes round to the same masks."""

    def __init__(self, dropout: float = 0.0, nan_from: int = -1, sharded: bool = False) -> None:
        super().__init__()
        self.nan_from = nan_from
        self.sharded = sharded
        hidden = [nn.Linear(8, 24), nn.ReLU(), nn.Dropout(dropout)]
        self.net = nn.Sequential(*hidden, nn.Linear(24, 3)).double()

    def configure_model(self) -> None:
        if self.sharded:
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        time.sleep(PAUSE)
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        last = self.global_rank == self.trainer.world_size - 1
        astray = last and 0 <= self.nan_from <= self.global_step
        return loss * math.nan if astray else loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.judge(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.judge(batch, "test")

    def judge(self, batch: Any, stage: str) -> None:
        logits = self.net(batch[0])
        right = (logits.argmax(1) == batch[1]).double().mean()
        self.log_dict({f"{stage}_loss": cross_entropy(logits, batch[1]), f"{stage}_acc": right})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Data(pl.LightningDataModule):
    """Sizes that two and three processes divide."""

    def __init__(self, batch_size: int = 12) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(288, 8, generator=generator, dtype=torch.double)
        y = (x[:, :3] + 0.5 * torch.randn(288, 3, generator=generator)).argmax(1)
        self.parts = [TensorDataset(x[i::2], y[i::2]) for i in range(2)]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.parts[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.parts[1], self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.parts[1], self.batch_size)


if __name__ == "__main__":
    LotteryCLI(Net, Data)
