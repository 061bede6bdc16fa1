"""Random numbers of a round: four seeds, and epochs that can be repeated and resumed exactly."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from typing_extensions import override

from ltpl.callbacks.namespace import Callback
from ltpl.rounds.ranks import of_each, rank


@dataclass(frozen=True)
class Seeds:
    """Where each kind of chance comes from.

    Args:
        init: Initial weights.
        order: Order of the training data.
        augmentation: All that is drawn while training: augmentation, dropout.
        mask: Random masks.
    """

    init: int
    order: int
    augmentation: int
    mask: int


def mixed(*parts: object) -> int:
    """Return a seed that depends on every part."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)
    if _has_accelerator():
        torch.manual_seed(seed)
    else:  # that would note it for each device that may come, with a stack trace, for ever
        torch.default_generator.manual_seed(seed)


@functools.cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


def random_states() -> dict[str, Any]:
    """Return the random states of this process, as tensors and numbers alone."""
    version, state, gauss = random.getstate()
    numpy: Any = np.random.get_state()
    return {
        "python": [version, list(state), gauss],
        "numpy": [numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` returned."""
    version, state, gauss = states["python"]
    random.setstate((version, tuple(state), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    restored = (name, keys.numpy().astype(np.uint32), position, has_gauss, cached)
    np.random.set_state(restored)
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


class EpochSeeds(Callback):
    """Make data order and random numbers of each epoch a function of seed and epoch.

    Lightning saves no random state, and a loader with `shuffle=True` starts over after a resume.
    Here every epoch begins with seeds of its own, so it is the same after a resume; inside an
    epoch, the batches that were trained are drawn and dropped, and the random states put back.
    Works for any `DataLoader`; samplers with a seed or a generator get the seed of the order.

    Args:
        order: Seed of the data order.
        augmentation: Seed of all else that is drawn.
        skip: Batches of the first epoch that a ticket from the middle of an epoch skips.
    """

    def __init__(self, order: int, augmentation: int, skip: int = 0):
        self.order = order
        self.augmentation = augmentation
        self.skip = skip
        self._batches = 0
        self._resumed: dict[str, Any] | None = None

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._adopt(trainer)
        if self._resumed is not None and not self._batches:
            restore_random_states(self._resumed)

    @override
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._adopt(trainer)

    def _adopt(self, trainer: Any) -> None:
        """Seed every training loader that is not seeded yet; the first epoch is drawn anew."""
        loaders = trainer.fit_loop._combined_loader.flattened
        strangers = [x for x in loaders if isinstance(x, DataLoader) and not hasattr(x, "seeded")]
        for loader in strangers:
            kind = type(loader)
            loader.__class__ = type(kind.__name__, (_Seeded, kind), {"__module__": kind.__module__})
            loader.seeded = (self, trainer)
        if strangers:
            iter(trainer.fit_loop._data_fetcher)

    def begin(self, epoch: int) -> tuple[int, dict[str, Any] | None]:
        """Return how many batches of this epoch are trained already, and the states after them."""
        skipped, states = (self._batches, self._resumed) if self._resumed else (self.skip, None)
        self.skip, self._resumed = 0, None
        return skipped, states if skipped else None

    @override
    def on_train_batch_end(self, *args: Any) -> None:
        self._batches = args[-1] + 1

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._batches = 0

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches, "random": of_each(random_states())}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._batches = state_dict["batches"]
        self._resumed = state_dict["random"][rank()]


class _Seeded(DataLoader[Any]):
    """What a training loader turns into: its epochs are functions of seed and epoch."""

    seeded: tuple[EpochSeeds, Any]

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        seeds, trainer = self.seeded
        epoch = trainer.fit_loop.epoch_progress.current.processed
        self._seed_order(mixed("order", seeds.order, epoch), seeds.order)
        if hasattr(self, "augmentation_seed"):  # loaders that augment by a seed of their own
            self.augmentation_seed = seeds.augmentation
        self._iterator = None  # workers that persist would go on with the epoch before
        before = random_states()
        seed_all(mixed("workers", seeds.augmentation, epoch, trainer.global_rank))
        batches = super().__iter__()
        restore_random_states(before)
        return self._drawn(batches, epoch)

    def _drawn(self, batches: Iterator[Any], epoch: int) -> Iterator[Any]:
        seeds, trainer = self.seeded
        seed_all(mixed("epoch", seeds.augmentation, epoch, trainer.global_rank))
        skipped, states = seeds.begin(epoch)
        for _ in range(skipped):
            next(batches)
        if states is not None:
            restore_random_states(states)
        yield from batches

    def _seed_order(self, of_epoch: int, of_run: int) -> None:
        samplers: list[Any] = [self.sampler, getattr(self.batch_sampler, "sampler", None)]
        for sampler in samplers:
            wrapped: Any = getattr(getattr(sampler, "dataset", None), "_sampler", None)
            if type(sampler) in (DistributedSampler, _Together):
                sampler.__class__, sampler.of_epoch = _Together, of_epoch
            elif isinstance(sampler, DistributedSampler) and hasattr(wrapped, "generator"):
                sampler.shuffle = False
                wrapped.generator = torch.Generator().manual_seed(of_epoch)
            elif hasattr(sampler, "set_epoch"):
                if hasattr(sampler, "seed"):
                    sampler.seed = of_run
            elif hasattr(sampler, "generator"):
                sampler.generator = torch.Generator().manual_seed(of_epoch)


class _Together(DistributedSampler[Any]):
    """What the sampler of several processes turns into: together they draw what one would."""

    of_epoch: int

    @override
    def __iter__(self) -> Iterator[Any]:
        self.seed = self.of_epoch - self.epoch  # only now: Lightning sets the epoch late
        return super().__iter__()
