"""Somebody's project: a module and data that know nothing of lottery tickets."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Points(pl.LightningDataModule):
    def __init__(self, batch_size: int = 16):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        self.points = TensorDataset(x, (x.sum(1) > 0).long())

    def train_dataloader(self):
        return DataLoader(self.points, self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.points, self.hparams.batch_size)

    def test_dataloader(self):
        return DataLoader(self.points, self.hparams.batch_size)


class Classifier(pl.LightningModule):
    def __init__(self, width: int, lr: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

    def measured(self, batch, stage: str):
        x, y = batch
        logits = self.net(x)
        loss = nn.functional.cross_entropy(logits, y)
        accuracy = (logits.argmax(1) == y).float().mean()
        self.log_dict({f"{stage}_loss": loss, f"{stage}_acc": accuracy})
        return loss

    def training_step(self, batch, batch_idx: int):
        return self.measured(batch, "train")

    def validation_step(self, batch, batch_idx: int) -> None:
        self.measured(batch, "val")

    def test_step(self, batch, batch_idx: int) -> None:
        self.measured(batch, "test")

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]
