"""`ImageClassifier`: a LightningModule around any network that returns logits."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class ImageClassifier(LightningModule):
    """Cross-entropy training of a classifier, with loss and accuracy for every stage.

    Logged are `train/loss` and `train/acc` of single batches, every `log_every_n_steps` of the
    trainer and at the end of an epoch, and `val/loss`, `val/acc`, `test/loss`, `test/acc` over all
    samples.

    Args:
        network: The network; it returns logits.
        optimizer: The optimiser.
        lr_scheduler: The learning-rate schedule, stepped once an epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ):
        super().__init__()
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch; log it and the accuracy on the steps that are written."""
        x, y = batch
        logits = self(x)
        loss = cross_entropy(logits, y)
        if self._is_written():
            self.log_dict({"train/loss": loss, "train/acc": accuracy(logits, y)})
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy over the validation samples."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy over the test samples."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        x, y = batch
        logits = self(x)
        means = {f"{stage}/loss": cross_entropy(logits, y), f"{stage}/acc": accuracy(logits, y)}
        # weighted by the size of each batch, over all processes
        self.log_dict(means, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(y))

    def _is_written(self) -> bool:
        """Whether the trainer will write what this training step logs.

        Logging costs 0.4 ms, as much as a step of a small network on a CPU. The last batch of an
        epoch counts too, so that callbacks find the names at the end of every epoch.
        """
        trainer = self._trainer
        if trainer is None:
            return False
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_turn = every > 0 and (trainer.global_step + 1) % every == 0
        return bool(
            is_turn or trainer.is_last_batch or trainer.should_stop or trainer.fast_dev_run  # type: ignore[attr-defined]
        )

    def configure_optimizers(self) -> Any:
        """Return the optimiser, with its schedule where there is one."""
        optimizer = self.optimizer(self.network.parameters())
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.lr_scheduler(optimizer)}


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of samples whose largest logit is that of their label."""
    return (logits.argmax(1) == labels).float().mean()
