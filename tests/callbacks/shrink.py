"""Fits that prune channels, with and without removing them, in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from tiny import Resumable, Tiny, trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from ltpl.callbacks import CompactAfterPruning

EPOCHS = 4
BATCHES = 4


def convolutional() -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    return varied(net)


class Residual(nn.Module):
    """Two layers that are added, one inside, and numbers of channels in its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.up, self.inner = nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)
        self.down, self.last = nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 4, 3)
        varied(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x)).relu()
        x = (x + self.last(self.down(self.inner(self.up(x)).relu()))).relu()
        return self.head(x.view(-1, 24))


def varied(net: nn.Module) -> Any:
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight)
            nn.init.normal_(norm.bias)
    return net


class Watched(Tiny):
    """Keeps the loss of every step and of every validation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[float] = []
        self.validated: list[float] = []

    def predict(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = cross_entropy(self.predict(batch[0]), batch[1])
        self.steps.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = cross_entropy(self.predict(batch[0]), batch[1])
        self.validated.append(float(loss))
        self.log("val_loss", loss)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", cross_entropy(self.predict(batch[0]), batch[1]))


def images(seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCHES * 5, 2, 4, 4, generator=generator)
    return TensorDataset(x, torch.randint(3, (len(x),), generator=generator))


class Continued(Resumable):
    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skip = state["begun"] % len(self)


def loader(seed: int = 0) -> DataLoader:
    return Continued(images(seed), batch_size=5)


def fit(
    folder: Path,
    callbacks: Sequence[Any],
    module: Any = None,
    validate: bool = True,
    ckpt_path: Any = None,
    **options: Any,
) -> Any:
    """Fit and return the module; `module.runner` is the Trainer."""
    module = Watched(convolutional()) if module is None else module
    options = {"max_epochs": EPOCHS, "precision": "64-true", "num_sanity_val_steps": 0} | options
    runner = trainer(folder, callbacks, **options)
    runner.fit(module, loader(), loader(1) if validate else None, ckpt_path=ckpt_path)
    module.runner = runner
    return module


def both(folder: Path, callbacks: Any, module: Any = None, **options: Any) -> tuple[Any, Any]:
    """Fit twins under the same callbacks; the second loses what was pruned.

    Args:
        folder: Where files go.
        callbacks: Makes them anew.
        module: The module.
        **options: Of the Trainer; and `compact`, those of `CompactAfterPruning`.
    """
    given = options.pop("compact", {})
    module = Watched(convolutional()) if module is None else module
    twin = copy.deepcopy(module)
    masked = fit(folder / "masked", callbacks(), module, **options)
    small = fit(folder / "small", [*callbacks(), CompactAfterPruning(**given)], twin, **options)
    return masked, small


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def apart(masked: Any, small: Any) -> float:
    """Return the largest difference of losses; infinite if there are not as many."""
    pairs = [(masked.steps, small.steps), (masked.validated, small.validated)]
    if any(len(one) != len(other) for one, other in pairs):
        return float("inf")
    return max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))


class Losses(pl.Callback):
    """Learning rates and sizes, one entry a batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.sizes.append(size(pl_module))
