"""LightningDataModules over images in memory, or over files too many for it.

`resident` says where images are kept. `auto`: on the GPU that trains if they take at most half of
what is free there, or else in main memory if they take at most half of it, or else nowhere. `true`:
on the device that trains. `cpu`: in main memory. `false`: nowhere, which means an ordinary
DataLoader with `num_workers` processes. The samples are the same in each case, to the bit.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from ltpl.data.augment import Augmentation
from ltpl.data.options import LARGEST_SEED, channelwise, choice, share, whole
from ltpl.data.order import generator
from ltpl.data.resident import Batch, BatchLoader, Look, Resident, Scale

NOISE = 2  # kind of chance, beside order and augmentation
RESIDENT = ("auto", True, False, "cpu")
Resides = Literal["auto", "cpu"] | bool


class ImageData(LightningDataModule):
    """Training, validation and test images; `setup` fills `train`, `val` and `test`.

    Args:
        batch_size: Samples in a training batch of one process.
        eval_batch_size: Samples in a validation or test batch.
        crop: Zeros added at each side of a training image before a random crop; 0 for none.
        flip: Whether training images are mirrored at random.
        mean: What is subtracted from stored pixels, one number or one for each channel.
        std: What they are divided by then.
        resident: Where images are kept: auto, true (training device), cpu or false (nowhere).
        num_workers: Processes that read batches where images are not kept in memory.
    """

    train: Any
    val: Any
    test: Any
    classes: int = 10

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        crop: int = 0,
        flip: bool = False,
        mean: Scale = 0.0,
        std: Scale = 1.0,
        resident: Resides = "auto",
        num_workers: int = 2,
    ):
        super().__init__()
        self.batch_size = whole("batch_size", batch_size, 1)
        self.eval_batch_size = whole("eval_batch_size", eval_batch_size, 1)
        choice("flip", flip, (True, False))
        augmentation = Augmentation(whole("crop", crop, 0), flip)
        self.look = Look(channelwise("mean", mean), channelwise("std", std, above=0), augmentation)
        self.resident = choice("resident", resident, RESIDENT)
        self.num_workers = whole("num_workers", num_workers, 0)

    def in_memory(self, nbytes: int) -> bool:
        """Return whether images of this size are kept in memory, here and in the other processes.

        With `auto` they are where they take at most half of it, the copy for the split included.
        """
        if self.resident != "auto" or not hasattr(os, "sysconf"):
            return self.resident is not False
        processes = 1 if self.trainer is None else self.trainer.num_devices
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return 2 * nbytes * processes <= memory // 2

    def _loader(
        self, data: Any, samples: int, shuffle: bool = False, augment: bool = False
    ) -> BatchLoader:
        streamed = self.resident is False or not isinstance(data, Resident)
        if not streamed and self.trainer is not None:
            data = data.to(self._device(data.nbytes))
        workers = self.num_workers if streamed else 0
        return BatchLoader(
            data,
            samples,
            shuffle=shuffle,
            look=self.look,
            augment=augment,
            workers=workers,
            trainer=self.trainer,
        )

    def _device(self, nbytes: int) -> torch.device:
        """Return where the data goes: to the GPU that trains, or to main memory."""
        device: torch.device = self.trainer.strategy.root_device  # type: ignore[union-attr]
        on_gpu = device.type == "cuda" and self.resident != "cpu"
        if on_gpu and self.resident == "auto":
            on_gpu = nbytes <= torch.cuda.mem_get_info(device)[0] // 2
        return device if on_gpu else torch.device("cpu")

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches, mixed and augmented anew each epoch."""
        return self._loader(self.train, self.batch_size, shuffle=True, augment=True)

    def val_dataloader(self) -> BatchLoader:
        """Return the validation batches in order."""
        return self._loader(self.val, self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        """Return the test batches in order."""
        return self._loader(self.test, self.eval_batch_size)

    def predict_dataloader(self) -> BatchLoader:
        """Return the test batches, for their predictions."""
        return self.test_dataloader()

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Return the batch on a device; a batch that is there already costs nothing."""
        if batch[0].device == device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


class SplitImageData(ImageData):
    """Images that come as a training and a test part; some training images are held out.

    Args:
        batch_size: Samples in a training batch of one process.
        val_size: Training images held out for every choice: how many, or what share.
        seed: Seed of that split, of the subset and of the noise.
        fraction: Share of the other training images that is used; above 0 to 1.
        label_noise: Share of the used ones that get a label at random (Zhang et al., 2017); 0 to 1.
        eval_batch_size: Samples in a validation or test batch.
        options: What `ImageData` takes beside.
    """

    def __init__(
        self,
        batch_size: int = 128,
        val_size: int | float = 5000,
        seed: int = 0,
        fraction: float = 1.0,
        label_noise: float = 0.0,
        eval_batch_size: int = 1000,
        **options: Any,
    ):
        super().__init__(batch_size, eval_batch_size, **options)
        if isinstance(val_size, float):
            self.val_size: int | float = share(
                "val_size", val_size, open_below=True, open_above=True
            )
        else:
            self.val_size = whole("val_size", val_size, 1)
        self.seed = whole("seed", seed, 0, LARGEST_SEED)
        self.fraction = share("fraction", fraction, open_below=True)
        self.label_noise = share("label_noise", label_noise)

    def stored(self, train: bool) -> Any:
        """Return the training or the test images, as they are stored."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Load the images, hold some of the training images out, and choose among the rest."""
        training = self.stored(train=True)
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(self.seed))
        held_out = self._held_out(len(training))
        used = max(1, round(self.fraction * (len(training) - held_out)))
        self.val = training.part(order[:held_out])
        self.train = training.part(order[held_out : held_out + used])
        self.train = self.train.labelled(
            noisy(self.train.labels, self.label_noise, self.classes, self.seed)
        )
        self.test = self.stored(train=False)

    def _held_out(self, samples: int) -> int:
        if isinstance(self.val_size, float):
            return min(max(1, round(self.val_size * samples)), samples - 1)
        return whole("val_size", self.val_size, 1, samples - 1)


def noisy(labels: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """Return labels of which an exact share is drawn anew, uniformly over all classes.

    One in so many as there are classes draws the label that it had.

    Args:
        labels: The true labels.
        share: The share that is drawn anew.
        classes: Number of classes.
        seed: Seed of which and what.
    """
    chance = generator(seed, 0, NOISE)
    chosen = torch.randperm(len(labels), generator=chance)[: round(share * len(labels))]
    drawn = torch.randint(classes, (len(chosen),), generator=chance)
    return labels.index_copy(0, chosen, drawn)
