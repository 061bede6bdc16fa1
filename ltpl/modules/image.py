"""`ImageClassifier`: a LightningModule around any network for images that returns logits."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from ltpl.models import Network
from ltpl.models.options import instance
from ltpl.modules.classifier import Classifier


class ImageClassifier(Classifier):
    """Classification of images; a batch is a pair of images and labels.

    Args:
        network: The network; it returns logits.
        optimizer: The optimiser; any torch class.
        lr_scheduler: The learning-rate schedule; any torch class, or `WarmupDrops`.
        channels_last: Whether kernels and images lie in memory with the channels last, which is
            faster on GPUs with tensor cores and on some CPUs.
        options: What `Classifier` takes beside.
    """

    def __init__(
        self,
        network: Network | nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        channels_last: bool = False,
        **options: Any,
    ):
        super().__init__(network, optimizer, lr_scheduler, **options)
        instance("channels_last", channels_last, bool, "true or false")
        self.channels_last = channels_last
        if channels_last:
            network.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        if self.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return self._learn(self(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and metrics over the validation samples."""
        images, labels = batch
        self._evaluate(self(images), labels, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and metrics over the test samples."""
        images, labels = batch
        self._evaluate(self(images), labels, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the logits of a batch of images, with labels or without."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        logits: Tensor = self(images)
        return logits
