"""Seconds per epoch of LeNet-300-100 on MNIST, batch 128: `ltpl fit` against plain loops.

Each variant runs in a process and a terminal of its own, as a user would see it; they take turns.

LTPL_DATA=data python -m experiments.speed --parts feeding
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.speed.ratios import Spread

EPOCHS = 3  # of a process; the first is left out
TURNS = 3
BATCH = 128
TRAINED = 55_000
DATA = os.environ.get("LTPL_DATA", "data")
HEAD = ("55,000 images, batch 128", "seconds an epoch", "times a plain loop in memory", "n")


def network_and_adam() -> Any:
    import torch

    from ltpl.models import LeNet300

    network = LeNet300()
    return network, torch.optim.Adam(network.parameters(), lr=1.2e-3, fused=True)


def tensors() -> tuple[Any, Any]:
    """Return training images as the network wants them, and labels."""
    from torchvision.datasets import MNIST

    data = MNIST(DATA)
    images = (data.data[:TRAINED, None] / 255 - 0.1307) / 0.3081
    return images, data.targets[:TRAINED]


def plain(batches: Callable[[], Iterable[Any]]) -> list[float]:
    """Return the seconds of each epoch of the four lines that training needs."""
    from torch.nn.functional import cross_entropy

    network, adam = network_and_adam()
    seconds = []
    for _ in range(EPOCHS):
        began = time.perf_counter()
        for images, labels in batches():
            loss = cross_entropy(network(images), labels)
            adam.zero_grad()
            loss.backward()
            adam.step()
        seconds.append(time.perf_counter() - began)
    return seconds


def in_memory() -> list[float]:
    import torch

    images, labels = tensors()

    def batches() -> Iterator[Any]:
        for index in torch.randperm(TRAINED).split(BATCH):
            yield images[index], labels[index]

    return plain(batches)


def workers() -> list[float]:
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import MNIST
    from torchvision.transforms import Compose, Normalize, ToTensor

    data = MNIST(DATA, transform=Compose([ToTensor(), Normalize((0.1307,), (0.3081,))]))
    loader = DataLoader(Subset(data, range(TRAINED)), BATCH, shuffle=True, num_workers=2)
    return plain(lambda: loader)


def lightning() -> list[float]:
    """Return the seconds of Lightning as its guide shows it: a TensorDataset, logs in each step."""
    import pytorch_lightning as pl
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset

    from experiments.speed.clock import EpochClock

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.adam = network_and_adam()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, labels = batch
            logits = self.network(images)
            loss = cross_entropy(logits, labels)
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/acc", (logits.argmax(1) == labels).float().mean())
            return loss

        def configure_optimizers(self) -> Any:
            return self.adam

    with tempfile.TemporaryDirectory() as folder:
        clock = EpochClock(f"{folder}/seconds.json")
        trainer = pl.Trainer(max_epochs=EPOCHS, callbacks=[clock], default_root_dir=folder)
        trainer.fit(Module(), DataLoader(TensorDataset(*tensors()), BATCH, shuffle=True))
    return clock.seconds


BY_HAND = {"in_memory": in_memory, "workers": workers, "lightning": lightning}
VARIANTS = {
    "plain loop, tensors in memory": "in_memory",
    "`ltpl fit`, logging and progress display on": "",
    "`ltpl fit`, progress display off": "--trainer.enable_progress_bar=false",
    "`ltpl fit`, Lightning's progress bar": "--trainer.callbacks+=RichProgressBar",
    "`ltpl fit`, Lightning's profiler of nothing": "--trainer.profiler=PassThroughProfiler",
    "`ltpl fit`, logging off": "--trainer.logger=false",
    "Lightning, TensorDataset, `self.log` in each step": "lightning",
    "plain loop, torchvision DataLoader, 2 workers": "workers",
}


def command(variant: str, folder: str, written: str) -> list[str]:
    if variant in BY_HAND:
        return [sys.executable, "-m", "experiments.speed.feeding", variant, written]
    config = Path(__file__).parents[2] / "configs" / "lenet_mnist.yaml"
    clock = ["--trainer.callbacks+=experiments.speed.clock.EpochClock"]
    clock.append(f"--trainer.callbacks.path={written}")
    where = [f"--trainer.default_root_dir={folder}", f"--data.data_dir={DATA}"]
    how = [f"--trainer.max_epochs={EPOCHS}", f"--data.batch_size={BATCH}", *variant.split()]
    fit = [sys.executable, "-m", "ltpl", "fit", "--config", str(config)]
    return [*fit, *how, *clock, *where]


def seconds(variant: str) -> float:
    """Return the median seconds of an epoch, in a process with a terminal."""
    with tempfile.TemporaryDirectory() as folder:
        written = f"{folder}/seconds.json"
        in_a_terminal(command(variant, folder, written))
        found = statistics.median(json.loads(Path(written).read_text())[1:])
    print(f"{variant or 'ltpl fit'}: {found:.2f} s", file=sys.stderr, flush=True)
    return found


def in_a_terminal(given: list[str]) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(given, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends on Linux
        while more := os.read(ours, 65536):
            shown = (shown + more)[-5000:]
    os.close(ours)
    if process.wait():
        raise RuntimeError(f"{' '.join(given)}:\n{shown.decode(errors='replace')}")


@dataclass(frozen=True)
class Row:
    """One variant: its seconds, and its ratio to the plain loop of the same turn."""

    variant: str
    seconds: Spread
    ratio: Spread

    def row(self) -> list[str]:
        return [self.variant, str(self.seconds), str(self.ratio), str(self.ratio.n)]

    def json(self) -> dict[str, Any]:
        return {
            "variant": self.variant,
            "seconds": self.seconds.json(),
            "ratio": self.ratio.json(),
        }


def measure() -> list[Row]:
    turns = [{name: seconds(variant) for name, variant in VARIANTS.items()} for _ in range(TURNS)]
    floor = [turn["plain loop, tensors in memory"] for turn in turns]
    found = {name: [turn[name] for turn in turns] for name in VARIANTS}
    return [
        Row(name, Spread.of(times), Spread.of_ratios(times, floor)) for name, times in found.items()
    ]


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(BY_HAND[sys.argv[1]]()))
