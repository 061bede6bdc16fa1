"""What gradient criteria need of a running Trainer: batches, and the loss of `training_step`."""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def training_batches(trainer: Any, count: int) -> list[Any]:
    """Return the first batches that a fresh pass over the training data gives, on the device.

    The Trainer's own iterator, its generators and the global random state do not notice.
    """
    loader = trainer.train_dataloader
    if isinstance(loader, (Mapping, list, tuple)):
        raise ValueError(
            f"train_dataloader is a {type(loader).__name__} of loaders; criteria that look at data "
            "need a single one. Use ltpl.masks.prune(batches=...) instead."
        )
    with torch.random.fork_rng(devices=[]):
        return [_as_trained_on(trainer, batch) for batch in first_batches(loader, count)]


def first_batches(loader: Any, count: int) -> list[Any]:
    """Return the first batches of a fresh pass; the generators of a loader do not notice."""
    loader = copy.copy(loader)
    if hasattr(loader, "_iterator"):
        loader._iterator = None  # persistent workers belong to the Trainer's own iterator
    owners = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    generators = [g for g in found if isinstance(g, torch.Generator)]
    states = [generator.get_state() for generator in generators]
    try:
        return list(itertools.islice(loader, count))
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _as_trained_on(trainer: Any, batch: Any) -> Any:
    """Convert and move a batch, as the Trainer does before `training_step`."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch)
    return trainer.strategy.batch_to_device(batch)


def training_loss(pl_module: Any, batch: Any) -> Tensor:
    """Return the loss of `training_step` on a batch, with logging silenced.

    Raises:
        ValueError: If `training_step` returns no loss (manual optimisation).
    """
    output = step_output(pl_module, batch)
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise ValueError(
            "This criterion follows the gradient of the loss that training_step returns, and it "
            "returned none. Use ltpl.masks.prune(loss=...) instead."
        )
    return loss


def step_output(pl_module: Any, batch: Any) -> Any:
    """Return what `training_step` returns for a batch."""
    takes_index = len(inspect.signature(pl_module.training_step).parameters) > 1
    return pl_module.training_step(batch, 0) if takes_index else pl_module.training_step(batch)


@contextlib.contextmanager
def silenced(pl_module: nn.Module) -> Iterator[None]:
    """Let `self.log` do nothing while the block runs, and metrics forget what they saw."""
    if not pl_module.automatic_optimization:
        raise ValueError(
            "Criteria that follow the gradient of training_step need automatic optimization; use "
            "ltpl.masks.prune(loss=...) instead."
        )
    replaced = vars(pl_module)
    for name in ("log", "log_dict"):
        replaced[name] = lambda *_, **__: None
    try:
        yield
    finally:
        for name in ("log", "log_dict"):
            del replaced[name]
        for module in pl_module.modules():
            if all(callable(getattr(module, m, None)) for m in ("update", "compute", "reset")):
                module.reset()  # type: ignore[operator]
