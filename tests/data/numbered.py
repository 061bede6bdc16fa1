"""Images whose label is their number, and a module that notes which of them it is trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ltpl.data.module import ImageData
from ltpl.data.resident import Resident

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def numbered(samples: int, channels: int = 3, side: int = 6) -> Resident:
    """Return random images, each with its number for a label."""
    images = torch.randint(0, 256, (samples, channels, side, side), dtype=torch.uint8)
    return Resident(images, torch.arange(samples))


def one_line(function: Callable[[], Any]) -> str:
    """Return the line that a function fails with."""
    try:
        function()
    except ValueError as error:
        message = str(error)
    else:
        raise AssertionError("no ValueError")
    assert "\n" not in message
    return message


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def numbers(loader: DataLoader[Any]) -> list[list[int]]:
    """Return the numbers in each batch of an epoch."""
    return [labels.tolist() for _, labels in loader]


def pixels(loader: DataLoader[Any], epoch: int = 0) -> Tensor:
    """Return all images of an epoch, as the network gets them."""
    loader.sampler.set_epoch(epoch)
    return torch.cat([images for images, _ in loader])


class Numbered(ImageData):
    """One set of numbered images for every stage, augmented while training."""

    def __init__(self, data: Resident, batch_size: int = 6, **options: Any):
        self.classes = len(data)
        super().__init__(batch_size, 5, **({"crop": 2, "flip": True, "std": 255.0} | options))
        self.data = data

    def setup(self, stage: str) -> None:
        self.train = self.val = self.test = self.data


@dataclass
class Seen:
    """What one training step got."""

    epoch: int
    batch_idx: int
    numbers: list[int]
    images: Tensor

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Seen)
            and (self.epoch, self.batch_idx, self.numbers)
            == (other.epoch, other.batch_idx, other.numbers)
            and torch.equal(self.images, other.images)
        )


class Recorder(pl.LightningModule):
    """A linear network with momentum, which forgets no batch that it was trained on."""

    def __init__(self, data: Resident) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(data.images[0].numel(), len(data))
        self.seen: list[Seen] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.flatten(1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        self.seen.append(Seen(self.current_epoch, batch_idx, labels.tolist(), images.clone()))
        return cross_entropy(self(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._judge(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._judge(batch, "test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])

    def _judge(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        logits = self(batch[0])
        right = (logits.argmax(1) == batch[1]).float().mean()
        means = {f"{stage}_loss": cross_entropy(logits, batch[1]), f"{stage}_acc": right}
        # not a whole number: Lightning 2.6 takes the mean over processes, rounded down, of those
        self.log_dict(means, sync_dist=True, on_epoch=True, batch_size=float(len(logits)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    @property
    def epochs(self) -> dict[int, list[list[int]]]:
        """The numbers in each batch, by epoch."""
        found: dict[int, list[list[int]]] = {}
        for step in self.seen:
            found.setdefault(step.epoch, []).append(step.numbers)
        return found


class Saving(pl.Callback):
    """Saves a checkpoint with every hook of a kind that comes after an optimiser step."""

    def __init__(self, folder: Path, hook: str = "on_train_batch_end") -> None:
        self.folder = folder
        self.saved: dict[int, Path] = {}  # by the number of batches that were trained
        self.steps = 0
        setattr(self, hook, self._save)

    def _save(self, trainer: pl.Trainer, recorder: Recorder, *_: Any) -> None:
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            batches = len(recorder.seen)
            self.saved[batches] = self.folder / f"{batches}.ckpt"
            trainer.save_checkpoint(self.saved[batches])


def fit(
    data: Resident, module: ImageData | None = None, ckpt_path: Path | None = None, **options: Any
) -> Recorder:
    """Return a recorder that was trained on data."""
    recorder = Recorder(data)
    trainer = pl.Trainer(**(QUIET | options))
    trainer.fit(recorder, datamodule=module or Numbered(data), ckpt_path=ckpt_path)
    return recorder


def same_weights(one: Recorder, other: Recorder) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
