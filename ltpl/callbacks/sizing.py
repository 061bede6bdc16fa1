"""Lazy layers get their sizes, and their weights, before anything is masked or copied."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from typing_extensions import override

from ltpl.callbacks.namespace import Callback
from ltpl.callbacks.network import Called, idle
from ltpl.callbacks.scoring import first_batches, step_output


class Sizing(Callback):
    """What callbacks have in common that look at weights before the first batch.

    In `fit`, the first training batch goes once through a network that has lazy layers
    (`nn.LazyLinear`, PyG's `GCNConv(-1, 16)`), before the optimiser is made: see `size_`.
    """

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit" or not lazy(pl_module) or hasattr(pl_module.configure_model, "sizes"):
            return
        if not pl_module.automatic_optimization:  # a training step wants optimisers
            return
        configure_model = pl_module.configure_model

        def then_size() -> None:
            del pl_module.configure_model
            configure_model()
            size_(pl_module, _first_batch(trainer, pl_module))

        then_size.sizes = True  # type: ignore[attr-defined]
        # the first moment at which data and module are set up, and the last before DDP wraps it
        pl_module.configure_model = then_size

    @override
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if lazy(pl_module):  # built late, or optimised by hand
            size_(pl_module, _first_batch(trainer, pl_module))


def lazy(model: nn.Module) -> bool:
    """Whether a parameter or buffer has no size yet."""
    return any(map(is_lazy, model.parameters())) or any(map(is_lazy, model.buffers()))


def size_(pl_module: Any, batch: Any) -> None:
    """Give lazy layers their sizes and initial weights, by one training step on a batch.

    The step runs in eval mode, logs nothing, and ends where the last lazy layer has its size. The
    random numbers that the weights take are a function of the state that the generator has now,
    which stays as it is: what is drawn afterwards is what would be drawn without lazy layers.

    Args:
        pl_module: The module.
        batch: A batch, where its network is.
    """

    def stop(*_: Any) -> None:
        if not lazy(pl_module):
            raise Called

    owners = [m for m in pl_module.modules() if any(map(is_lazy, _own(m)))]
    modes = [(module, module.training) for module in pl_module.modules()]
    handles = [module.register_forward_hook(stop) for module in owners]
    pl_module.eval()
    try:
        with (
            undisturbed(),
            idle(pl_module),
            torch.no_grad(),
            torch.device(pl_module.device),
            torch.compiler.set_stance("force_eager"),
            contextlib.suppress(Called),
        ):
            torch.manual_seed(_digest(torch.get_rng_state()))
            step_output(pl_module, batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training


def _first_batch(trainer: Any, pl_module: Any) -> Any:
    with undisturbed():
        batch = first(trainer.fit_loop._data_source.dataloader())
        return trainer.strategy.batch_to_device(batch, pl_module.device)


def first(loader: Any) -> Any:
    """Return the first batch of a loader, or of each of several."""
    if isinstance(loader, Mapping):
        return {name: first(each) for name, each in loader.items()}
    if isinstance(loader, (list, tuple)):
        return [first(each) for each in loader]
    return first_batches(loader, 1)[0]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put back the random states of Python, NumPy and torch when the block ends."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def _own(module: nn.Module) -> list[Any]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _digest(state: torch.Tensor) -> int:
    return int.from_bytes(hashlib.sha256(state.numpy().tobytes()).digest()[:4], "big")
