"""The 1,797 real handwritten digits that scikit-learn ships: data for a machine without network."""

from __future__ import annotations

import functools

import torch

from ltpl.data.module import ImageData
from ltpl.data.options import LARGEST_SEED, whole
from ltpl.data.resident import Resident

SAMPLES = 1797


@functools.lru_cache(maxsize=1)
def decoded() -> Resident:
    """Return all digits, read once a process; pixels are 0 to 16."""
    from sklearn.datasets import load_digits  # 2 s that other commands need not wait for

    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
    return Resident(images, torch.from_numpy(digits.target))


class Digits(ImageData):
    """Digits of 8x8 pixels, split into training, validation and test by a seed.

    Args:
        batch_size: Samples in a training batch of one process.
        val_size: Samples held out for every choice.
        test_size: Samples held out for the last word.
        seed: Seed of the split.
        eval_batch_size: Samples in a validation or test batch.
    """

    def __init__(
        self,
        batch_size: int = 60,
        val_size: int = 250,
        test_size: int = 250,
        seed: int = 0,
        eval_batch_size: int = 1000,
    ):
        super().__init__(batch_size, eval_batch_size, std=16.0)
        self.val_size = whole("val_size", val_size, 1, SAMPLES - 2)
        self.test_size = whole("test_size", test_size, 1, SAMPLES - 1 - val_size)
        self.seed = whole("seed", seed, 0, LARGEST_SEED)

    def setup(self, stage: str) -> None:
        """Load and split the digits."""
        everything = decoded()
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(self.seed))
        rest = SAMPLES - self.val_size - self.test_size
        parts = torch.split(order, [rest, self.val_size, self.test_size])
        self.train, self.val, self.test = map(everything.part, parts)
