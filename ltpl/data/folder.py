"""`ImageFolder`: any folder of images, a folder for each class."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from ltpl.data.module import SplitImageData
from ltpl.data.options import channelwise, whole
from ltpl.data.packed import content_digest, pack, unpack
from ltpl.data.resident import Batch, Look, Resident, Scale, read_ahead

MEASURED = 1000  # images that mean and deviation are taken from
AT_ONCE = 256  # images decoded in one go


class Files(Dataset[Batch]):
    """Images in files, decoded when an index tensor asks for a batch of them.

    Args:
        paths: The files.
        labels: The label of each.
        size: Side of the square that is cut from the middle of each image after it was scaled;
            images stay as they are if not given, and must then be equally large.
    """

    def __init__(self, paths: Sequence[Path], labels: Tensor, size: int | None):
        self.paths = paths
        self.labels = labels
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Batch:
        images = []
        for path in (self.paths[each] for each in index.tolist()):
            images.append(self._decoded(path))
            if images[-1].shape != self.shape:
                (_, height, width), (_, other, one) = images[-1].shape, self.shape
                raise ValueError(
                    f"size: {path} has {width}x{height} pixels, another image {one}x{other}; with "
                    f"size={min(other, one)} all are cut to squares of that side."
                )
        return torch.stack(images), self.labels[index]

    def _decoded(self, path: Path) -> Tensor:
        functional = importlib.import_module("torchvision.transforms.functional")
        load = importlib.import_module("torchvision.datasets.folder").default_loader
        try:
            image = load(str(path))
        except (OSError, SyntaxError, ValueError) as error:  # what PIL raises on broken files
            raise ValueError(f"data_dir: {path} cannot be read as an image; remove it.") from error
        if self.size is not None:
            image = functional.center_crop(functional.resize(image, self.size), self.size)
        pixels: Tensor = functional.pil_to_tensor(image)
        return pixels

    @functools.cached_property
    def shape(self) -> torch.Size:
        """Channels, height and width of the first image, which all others must have."""
        return self._decoded(self.paths[0]).shape

    @property
    def nbytes(self) -> int:
        """How much memory all images take."""
        return len(self) * self.shape.numel()

    def part(self, index: Tensor) -> Files:
        """Return some of the samples."""
        return Files([self.paths[each] for each in index.tolist()], self.labels[index], self.size)

    def labelled(self, labels: Tensor) -> Files:
        """Return the same images with other labels."""
        return Files(self.paths, labels, self.size)

    def decoded(self, workers: int, name: str) -> Resident:
        """Return all images in memory, with a progress bar.

        Args:
            workers: Processes that decode.
            name: What is decoded, for the bar.
        """
        indices = list(torch.split(torch.arange(len(self)), AT_ONCE))
        console = Console(stderr=True)
        batches = track(
            read_ahead(self, indices, workers),
            f"Decoding {name}",
            total=len(indices),
            console=console,
            disable=not console.is_terminal,
        )
        images, labels = zip(*batches, strict=True)
        return Resident(torch.cat(images), torch.cat(labels))


def files_of(folder: Path, size: int | None, known: Sequence[str] | None = None) -> Files:
    """Return the images in the class folders of a folder.

    Args:
        folder: The folder.
        size: See `Files`.
        known: The classes there must be.

    Raises:
        ValueError: If there is no folder, no class, a class without images, or another class.
    """
    if not folder.is_dir():
        raise ValueError(
            f"data_dir: there is no folder {folder}; ImageFolder wants <data_dir>/train/<class>/* "
            "and <data_dir>/test/<class>/*."
        )
    try:
        module = importlib.import_module("torchvision.datasets.folder")
    except ModuleNotFoundError as error:
        raise ValueError(
            "ImageFolder is read by torchvision, which is not installed: pip install torchvision"
        ) from error
    classes = sorted(each.name for each in folder.iterdir() if each.is_dir())
    if not classes:
        raise ValueError(f"data_dir: {folder} has no folders in it; each class wants one.")
    if known is not None and classes != list(known):
        wrong = sorted(set(classes) ^ set(known))
        raise ValueError(
            f"data_dir: {folder} and the training images differ in their classes: "
            f"{', '.join(wrong)} on one side only."
        )
    try:
        listed = module.ImageFolder(folder).samples
    except FileNotFoundError as error:
        told = " ".join(str(error).split())
        raise ValueError(f"data_dir: {folder}: {told}; add images or remove the folder.") from error
    paths, labels = zip(*listed, strict=True)
    return Files([Path(path) for path in paths], torch.tensor(labels), size)


@functools.lru_cache(maxsize=4)
def resident(folder: Path, size: int | None, workers: int) -> Resident:
    """Return all images of a folder, from its packed file or decoded; once a process.

    Args:
        folder: The folder of class folders.
        size: See `Files`.
        workers: Processes that decode.
    """
    files = files_of(folder, size)
    digest = content_digest(folder, files.paths, ("1", size))
    path = folder.with_name(f"{folder.name}{'' if size is None else f'-{size}'}.packed.safetensors")
    found = unpack(path, digest)
    if found is None:
        found = files.decoded(workers, folder.name)
        try:
            pack(found, path, digest)
        except OSError as error:
            warnings.warn(
                f"the decoded images are not kept: {path} cannot be written ({error})",
                stacklevel=2,
            )
    return found


class ImageFolder(SplitImageData):
    """Images in `train/<class>/*` and `test/<class>/*`; every format that PIL reads, in colour.

    Images that fit in memory are decoded once and kept in `train.packed.safetensors` and
    `test.packed.safetensors` beside the folders, for as long as the files do not change.

    Args:
        data_dir: The folder that holds the two.
        size: Side of the square that is cut from the middle of each image, after it was scaled so
            that its shorter side has this length; not given, images stay as they are.
        test_folder: The name of the folder of test images.
        val_size: Training images held out for every choice: how many, or what share.
        mean: What is subtracted from pixels of 0 to 255, for each channel; measured on 1,000
            training images if not given.
        std: What they are divided by then; measured likewise.
        options: What `SplitImageData` takes beside.
    """

    def __init__(
        self,
        data_dir: str | Path = "data",
        size: int | None = None,
        test_folder: str = "test",
        val_size: int | float = 0.1,
        mean: Scale | None = None,
        std: Scale | None = None,
        **options: Any,
    ):
        super().__init__(val_size=val_size, **options)
        self.data_dir = data_dir
        self.size = size if size is None else whole("size", size, 1)
        self.test_folder = test_folder
        self.given = (
            mean if mean is None else channelwise("mean", mean, channels=3),
            std if std is None else channelwise("std", std, above=0, channels=3),
        )

    @property
    def root(self) -> Path:
        """The folder that holds both parts."""
        return Path(self.data_dir).expanduser().absolute()

    def prepare_data(self) -> None:
        """Decode the images, in one process; the others find the packed files."""
        for train in (True, False):
            self.stored(train)

    def stored(self, train: bool) -> Any:
        """Return the training or the test images: in memory, or as files."""
        training = files_of(self.root / "train", self.size)
        classes = sorted(each.name for each in (self.root / "train").iterdir() if each.is_dir())
        self.classes = len(classes)
        files = training
        if not train:
            files = files_of(self.root / self.test_folder, self.size, classes)
        if not self.in_memory(training.nbytes + (0 if train else files.nbytes)):
            return files
        folder = self.root / ("train" if train else self.test_folder)
        return resident(folder, self.size, self.num_workers)

    def setup(self, stage: str) -> None:
        """Load or list the images, split them, and measure what is not given."""
        super().setup(stage)
        measured = self._statistics() if None in self.given else self.given
        mean, std = (
            own if own is not None else found
            for own, found in zip(self.given, measured, strict=True)
        )
        self.look = Look(mean, std, self.look.augmentation)  # type: ignore[arg-type]

    def _statistics(self) -> tuple[list[float], list[float]]:
        training = self.stored(train=True)
        every = torch.linspace(0, len(training) - 1, min(MEASURED, len(training))).round().long()
        pixels = training[every][0].double().transpose(0, 1).flatten(1)
        return pixels.mean(1).tolist(), pixels.std(1).clamp(min=1e-6).tolist()
