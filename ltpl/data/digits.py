"""The 1,797 real handwritten digits that scikit-learn ships: data for a machine without network."""

from __future__ import annotations

import torch
from pytorch_lightning import LightningDataModule
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, random_split


class Digits(LightningDataModule):
    """Digits of 8x8 pixels, split into training, validation and test by a seed.

    Args:
        batch_size: Samples in a batch.
        val_size: Samples held out for every choice.
        test_size: Samples held out for the last word.
        seed: Seed of the split.
    """

    def __init__(
        self, batch_size: int = 60, val_size: int = 250, test_size: int = 250, seed: int = 0
    ):
        super().__init__()
        if val_size < 1 or test_size < 1 or val_size + test_size >= 1797:
            raise ValueError(
                f"val_size={val_size}, test_size={test_size}: both at least 1, together below 1797."
            )
        self.batch_size = batch_size
        self.val_size = val_size
        self.test_size = test_size
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Load and split the digits."""
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
        everything = TensorDataset(images, torch.from_numpy(digits.target).long())
        rest = len(everything) - self.val_size - self.test_size
        generator = torch.Generator().manual_seed(self.seed)
        self.train, self.val, self.test = random_split(
            everything, [rest, self.val_size, self.test_size], generator
        )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return shuffled batches."""
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the validation batches in order."""
        return DataLoader(self.val, self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the test batches in order."""
        return DataLoader(self.test, self.batch_size)
