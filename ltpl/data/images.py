"""The image sets of the papers, read by torchvision once a process.

What is read is checked: torchvision compares CIFAR's files, which are pickles, with their published
sums before it opens them.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import torch

from ltpl.data.module import SplitImageData
from ltpl.data.options import choice
from ltpl.data.resident import Resident

IDX = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


def torchvision_reader(name: str) -> Any:
    """Return one of torchvision's data sets.

    Raises:
        ValueError: If torchvision is not installed.
    """
    try:
        return getattr(importlib.import_module("torchvision.datasets"), name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name} is read by torchvision, which is not installed: pip install torchvision"
        ) from error


@functools.lru_cache(maxsize=4)
def decoded(name: str, root: Path, inside: str, files: tuple[str, ...], train: bool) -> Resident:
    """Return the images of a data set, read once a process.

    Args:
        name: torchvision's name of the data set.
        root: The folder that torchvision reads.
        inside: The folder in there that holds the files.
        files: The files.
        train: The training images, or else the test images.

    Raises:
        ValueError: If the files are missing or broken.
    """
    folder = root / inside
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ValueError(
            f"data_dir: {', '.join(missing)} not found in {folder}; put the unpacked files of "
            f"{name} there, name the folder that holds {inside}, or set download=True."
        )
    reader = torchvision_reader(name)
    try:
        data = reader(root, train)
        images = torch.as_tensor(data.data)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise ValueError(
            f"data_dir: the files in {folder} are not {name}'s; delete them and set download=True."
        ) from error
    colours = images.dim() == 4
    images = images.permute(0, 3, 1, 2).contiguous() if colours else images.unsqueeze(1)
    return Resident(images, data.targets)


class TorchvisionImages(SplitImageData):
    """Images that torchvision reads; a class for each set says which, and its statistics.

    Args:
        data_dir: The folder that holds the files, as torchvision lays them out.
        download: Whether missing files are fetched into `data_dir`.
        options: What `SplitImageData` takes beside.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(self, data_dir: str | Path = "data", download: bool = False, **options: Any):
        mean, std = ([255 * share for share in shares] for shares in (self.mean, self.std))
        super().__init__(mean=mean, std=std, **options)
        self.data_dir = data_dir
        self.download = choice("download", download, (True, False))

    @property
    def root(self) -> Path:
        """The folder that torchvision reads."""
        return Path(self.data_dir).expanduser().absolute()

    def prepare_data(self) -> None:
        """Fetch the files where that is asked for.

        Raises:
            ValueError: If they cannot be fetched.
        """
        if not self.download:
            return
        try:
            torchvision_reader(self.name)(self.root, download=True)
        except (OSError, RuntimeError) as error:  # of the network, of the disk, of a wrong sum
            reason = str(error).strip().split("\n")[-1]  # that of the last mirror
            raise ValueError(
                f"download: {self.name} could not be fetched into {self.root} ({reason}); put its "
                f"unpacked files into {self.root / self.folder} by hand."
            ) from error

    def stored(self, train: bool) -> Resident:
        """Return the training or the test images."""
        return decoded(self.name, self.root, self.folder, self.files, train)


class MNIST(TorchvisionImages):
    """Handwritten digits of 28x28 pixels: 55,000 to train, 5,000 to validate, 10,000 to test.

    Args:
        data_dir: The folder that holds `MNIST/raw`, as torchvision lays it out.
        batch_size: Samples in a training batch of one process; the lottery ticket paper's.
        options: What `TorchvisionImages` takes beside.
    """

    name, folder, files = "MNIST", "MNIST/raw", IDX
    mean, std = (0.1307,), (0.3081,)  # of the training images as fractions; the usual figures

    def __init__(self, data_dir: str | Path = "data", batch_size: int = 60, **options: Any):
        super().__init__(data_dir, batch_size=batch_size, **options)


class FashionMNIST(MNIST):
    """Clothes in the format of MNIST (Xiao et al., 2017).

    Args:
        data_dir: The folder that holds `FashionMNIST/raw`, as torchvision lays it out.
        options: What `MNIST` takes beside.
    """

    name, folder = "FashionMNIST", "FashionMNIST/raw"
    mean, std = (0.2860,), (0.3530,)

    def __init__(self, data_dir: str | Path = "data", **options: Any):
        super().__init__(data_dir, **options)


class CIFAR10(TorchvisionImages):
    """Colour images of 32x32 pixels: 45,000 to train, 5,000 to validate, 10,000 to test.

    Args:
        data_dir: The folder that holds `cifar-10-batches-py`, as torchvision lays it out.
        crop: Zeros added at each side of a training image before a random crop; 0 for none.
        flip: Whether training images are mirrored at random.
        options: What `TorchvisionImages` takes beside.
    """

    name, folder = "CIFAR10", "cifar-10-batches-py"
    files: tuple[str, ...] = (
        *(f"data_batch_{n}" for n in range(1, 6)),
        "test_batch",
        "batches.meta",
    )
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training images

    def __init__(
        self, data_dir: str | Path = "data", crop: int = 4, flip: bool = True, **options: Any
    ):
        super().__init__(data_dir, crop=crop, flip=flip, **options)


class CIFAR100(CIFAR10):
    """As CIFAR-10, of 100 classes.

    Args:
        data_dir: The folder that holds `cifar-100-python`, as torchvision lays it out.
        options: What `CIFAR10` takes beside.
    """

    classes = 100
    name, folder, files = "CIFAR100", "cifar-100-python", ("train", "test", "meta")
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

    def __init__(self, data_dir: str | Path = "data", **options: Any):
        super().__init__(data_dir, **options)
