"""The path between two trained networks, measured with the project's own validation step."""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel
from typing_extensions import override

from ltpl.callbacks.namespace import Callback
from ltpl.callbacks.ranks import mean_over_ranks
from ltpl.callbacks.scoring import first_batches
from ltpl.callbacks.sizing import undisturbed
from ltpl.rounds.draw import training_data
from ltpl.rounds.evaluate import validated
from ltpl.rounds.experiment import Parts
from ltpl.rounds.measure import accuracy, validation_loss
from ltpl.rounds.ranks import of_each
from ltpl.rounds.seeds import mixed, seed_all
from ltpl.tickets.path import Point, evenly, interpolated
from ltpl.tickets.snapshot import Snapshot

BATCHES = 100  # of training data, at most: with more, the path would take as long as the training
MEMORY = 2**30  # bytes of them that are kept, at most

NOTHING = (None, None)


def measure_path(
    parts: Parts,
    first: Snapshot,
    second: Snapshot,
    alphas: Sequence[float] | None = None,
    monitor: str | None = None,
    accuracy: str | None = None,
) -> list[Point]:
    """Return errors and losses of the networks between two, by the project's `validation_step`.

    Counted are all validation data, and of the training data the first 100 batches of one order (1
    GiB at most), the same for every network: without augmentation where the loader has it as
    `augment`, as those of ltpl do, else as it was drawn once. On these batches the statistics of
    BatchNorm are estimated again, as the mean over them, with nothing else in training mode.

    The module, what it logs and the random states are afterwards as they were.

    Args:
        parts: A round, trained or prepared.
        first: The network at 0.
        second: The network at 1.
        alphas: The places; 31 even ones, as in the paper, if not given.
        monitor: The validation loss; found by its name if not given.
        accuracy: A part of the name of the accuracy; found likewise.

    Raises:
        ValueError: If the networks differ in names or shapes, or a metric is unknown.
    """
    places = evenly(31) if alphas is None else alphas
    interpolated(first, second, 0)  # refuses, before anything is touched
    with undisturbed(), _kept(parts.module):
        seed_all(mixed("path"))
        path = _Path(parts, monitor, accuracy)
        with path.unheard():
            return [path.point(alpha, *interpolated(first, second, alpha)) for alpha in places]


@contextlib.contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """Put weights, buffers and modes back when the block ends."""
    before = Snapshot.take("before", module)
    modes = [(inner, inner.training) for inner in module.modules()]
    try:
        yield
    finally:
        before.restore_weights_(module)
        for inner, training in modes:
            inner.training = training


class _Path:
    """Validates one network after another.

    Args:
        parts: The round.
        monitor: The validation loss, if it was named.
        accuracy: A part of the name of the accuracy, if it was named.
    """

    def __init__(self, parts: Parts, monitor: str | None, accuracy: str | None):
        self.parts = parts
        self.monitor, self.accuracy = monitor, accuracy
        # those of its training, if it has: a second setup may draw another split
        loader, self.validation = parts.trainer.train_dataloader, parts.trainer.val_dataloaders
        self.training = Batches(training_data(parts) if loader is None else loader)
        self.statistics = Statistics(parts.module)

    def point(self, alpha: float, weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Point:
        """Return what is measured of one network."""
        Snapshot("between", weights, buffers).restore_weights_(self.parts.module)
        as_it_is = self._judged()
        if not self.statistics.layers:
            return Point(alpha, *as_it_is)
        estimated: tuple[float | None, ...] = NOTHING * 2
        if self.training.kept:
            trainer = self.parts.trainer
            with (
                _other(trainer, callbacks=[*trainer.callbacks, self.statistics]),
                torch.compiler.set_stance("force_eager"),
            ):
                self._validated(self.training)
            estimated = self._judged()
        return Point(alpha, *estimated, *as_it_is)

    def _judged(self) -> tuple[float | None, ...]:
        """Return error and loss of the module on training and on validation data."""
        on_training = self._judge(self.training) if self.training.kept else NOTHING
        return (*on_training, *self._judge(self.validation))

    def _judge(self, loader: Any) -> tuple[float | None, float | None]:
        found = self._validated(loader)
        if not found:
            return NOTHING
        loss, right = validation_loss(found, self.monitor), accuracy(found, self.accuracy)
        return None if right is None else 1 - right, None if loss is None else found[loss]

    def _validated(self, loader: Any) -> dict[str, float]:
        module, data = self.parts.module, self.parts.data
        given: dict[str, Any] = {} if loader is None else {"val_dataloader": lambda: loader}
        if given and data is not None:  # it is set up
            given |= {"prepare_data": _nothing, "setup": _nothing}
        # not as an argument of validate: the hooks of the data would not see its batches
        with _other(module if data is None else data, **given):
            return validated(self.parts)

    @contextlib.contextmanager
    def unheard(self) -> Iterator[None]:
        """Let loggers hear nothing, and no average step in for the network."""
        trainer = self.parts.trainer
        whole = [c for c in trainer.callbacks if not any(map(_averages, vars(c).values()))]
        with _other(trainer, callbacks=whole, _loggers=[_silent(trainer) for _ in trainer.loggers]):
            yield


def _averages(value: Any) -> bool:
    return isinstance(value, AveragedModel)


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


def _silent(trainer: Any) -> Any:
    """Return a logger of the Trainer's package that takes everything and keeps nothing."""
    names = [kind.__module__ for kind in type(trainer).__mro__]
    package = next(n for n in names if n.endswith(".trainer.trainer")).rsplit(".", 2)[0]
    return importlib.import_module(f"{package}.loggers.logger").DummyLogger()


@contextlib.contextmanager
def _other(owner: Any, **attributes: Any) -> Iterator[None]:
    """Let an object have other attributes while the block runs."""
    own = vars(owner)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)


class Batches:
    """The first batches of a loader; each pass gives copies, as a step may work in place.

    Args:
        loader: The loader; of several, whose batches no validation step knows, nothing is kept.
    """

    def __init__(self, loader: Any):
        self.kept: list[Any] = []
        if isinstance(loader, (Mapping, list, tuple)):
            return
        loader = copy.copy(loader)
        if hasattr(loader, "augment"):
            loader.augment = False
        size = sum(map(_bytes, first_batches(loader, 1)))
        found = first_batches(loader, max(1, min(BATCHES, MEMORY // max(size, 1))))
        self.kept = found[: min(of_each(len(found)))]  # processes wait for each other

    def __iter__(self) -> Iterator[Any]:
        return map(_as_validated, self.kept)

    def __len__(self) -> int:
        return len(self.kept)


def _as_validated(batch: Any) -> Any:
    if hasattr(batch, "train_mask") and hasattr(batch, "val_mask"):  # one graph for every stage
        batch = copy.copy(batch)
        batch.val_mask = batch.train_mask
    return apply_to_collection(batch, Tensor, Tensor.clone)


def _bytes(batch: Any) -> int:
    sizes: list[int] = []
    apply_to_collection(batch, Tensor, lambda t: sizes.append(t.numel() * t.element_size()))
    return sum(sizes)


class Statistics(Callback):
    """Estimates the statistics of BatchNorm anew: means over the batches of one validation.

    Args:
        module: The network; layers that its `train()` leaves in evaluation mode are left alone.
    """

    def __init__(self, module: nn.Module):
        module.train()
        self.layers = [
            inner
            for inner in module.modules()
            if isinstance(inner, _BatchNorm) and inner.training and inner.track_running_stats
        ]
        self._momenta = [layer.momentum for layer in self.layers]

    @override
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        for layer in self.layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
            layer.train()

    @override
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        mean = mean_over_ranks()
        for layer, momentum in zip(self.layers, self._momenta, strict=True):
            layer.momentum = momentum
            for kept in (layer.running_mean, layer.running_var):
                assert kept is not None
                kept.copy_(mean(kept))
