"""Images that torchvision reads, decoded once a process and held in memory."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import torch

from ltpl.data.resident import LARGEST_SEED, Resident, ResidentDataModule, whole

TRAIN_SAMPLES = 60_000
MEAN, STD = 0.1307, 0.3081  # of the training images as fractions; the usual figures
FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


def torchvision_mnist() -> Any:
    """Return torchvision's reader of MNIST.

    Raises:
        ValueError: If torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision.datasets").MNIST
    except ModuleNotFoundError as error:
        raise ValueError(
            "MNIST is read by torchvision, which is not installed: pip install torchvision"
        ) from error


@functools.lru_cache(maxsize=4)
def decoded(root: Path, train: bool) -> Resident:
    """Return MNIST's training or test images, read once a process.

    Args:
        root: The folder that holds `MNIST/raw`.
        train: The training images, or else the test images.

    Raises:
        ValueError: If the files are missing or broken.
    """
    raw = root / "MNIST" / "raw"
    if missing := [name for name in FILES if not (raw / name).is_file()]:
        raise ValueError(
            f"data_dir: {', '.join(missing)} not found in {raw}; put the unpacked files of MNIST "
            "there, name the folder that holds MNIST/raw, or set download=True."
        )
    reader = torchvision_mnist()
    try:
        data = reader(root, train)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise ValueError(
            f"data_dir: the files in {raw} are not MNIST's; delete them and set download=True."
        ) from error
    return Resident(data.data.unsqueeze(1), data.targets, mean=255 * MEAN, std=255 * STD)


class MNIST(ResidentDataModule):
    """Handwritten digits of 28x28 pixels: 55,000 to train, 5,000 to validate, 10,000 to test.

    Args:
        data_dir: The folder that holds `MNIST/raw`, as torchvision lays it out.
        batch_size: Samples in a training batch of one process.
        val_size: Training images held out for every choice; 1 to 59999.
        seed: Seed of that split.
        download: Whether missing files are fetched into `data_dir`.
        eval_batch_size: Samples in a validation or test batch.
        resident: Where the data is kept: `auto` is the GPU that trains, if there is one; `cpu` is
            main memory.
    """

    def __init__(
        self,
        data_dir: str | Path = "data",
        batch_size: int = 60,
        val_size: int = 5000,
        seed: int = 0,
        download: bool = False,
        eval_batch_size: int = 1000,
        resident: str = "auto",
    ):
        super().__init__(batch_size, eval_batch_size, resident)
        self.data_dir = data_dir
        self.val_size = whole("val_size", val_size, 1, TRAIN_SAMPLES - 1)
        self.seed = whole("seed", seed, 0, LARGEST_SEED)
        self.download = download

    def prepare_data(self) -> None:
        """Fetch the files where that is asked for."""
        if self.download:
            torchvision_mnist()(self.data_dir, download=True)

    def setup(self, stage: str) -> None:
        """Load the images, and hold some of the training images out."""
        root = Path(self.data_dir).expanduser().absolute()
        training = decoded(root, train=True)
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(self.seed))
        self.val = training.part(order[: self.val_size])
        self.train = training.part(order[self.val_size :])
        self.test = decoded(root, train=False)
