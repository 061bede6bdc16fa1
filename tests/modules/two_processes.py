"""Train and validate on as many processes as asked for; print what was logged of all samples."""

from __future__ import annotations

import json
import sys

import pytorch_lightning as pl
import torch
from torch import nn

from ltpl.data.resident import BatchLoader, Resident
from ltpl.modules import ImageClassifier


class Odd(pl.LightningDataModule):
    """23 samples: neither processes nor batches divide them."""

    def __init__(self) -> None:
        super().__init__()
        images = torch.randn(23, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        self.data = Resident(images, torch.arange(23) % 5)

    def train_dataloader(self) -> BatchLoader:
        return BatchLoader(self.data, 4, shuffle=True)

    def val_dataloader(self) -> BatchLoader:
        return BatchLoader(self.data, 4)


if __name__ == "__main__":
    processes = int(sys.argv[1])
    torch.manual_seed(0)
    module = ImageClassifier(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), lambda p: torch.optim.SGD(p, lr=0.0)
    )
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=Odd())
    if trainer.is_global_zero:
        names = ("val/loss", "val/acc", "train/loss_epoch", "train/acc_epoch")
        print(json.dumps({name: float(trainer.callback_metrics[name]) for name in names}))
