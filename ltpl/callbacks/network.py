"""Which network a LightningModule trains, and what a batch calls it with."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ltpl.callbacks.scoring import step_output
from ltpl.masks.mask import Mask
from ltpl.masks.saliency import borrowed
from ltpl.masks.shards import must_lie_here


class Called(Exception):
    """Ends a step as soon as the network is called."""


@dataclass(frozen=True)
class Network:
    """The part of a LightningModule that holds its weights.

    Args:
        path: Where it is; empty if it is the LightningModule itself.
        module: The network.
        arguments: What a training batch calls it with.
    """

    path: str
    module: nn.Module
    arguments: tuple[Any, ...]

    @property
    def prefix(self) -> str:
        """What the names of its parameters begin with, in the LightningModule."""
        return f"{self.path}." if self.path else ""

    def inside(self, mask: Mask) -> Mask:
        """Return the part of a mask that is about this network, by its own names."""
        here = {n: keep for n, keep in mask.items() if n.startswith(self.prefix)}
        return Mask({n.removeprefix(self.prefix): keep for n, keep in here.items()}, mask.metadata)

    def put(self, pl_module: nn.Module, small: nn.Module) -> None:
        """Put another network in its place."""
        if small is self.module:
            return
        parent, _, name = self.path.rpartition(".")
        owner = pl_module.get_submodule(parent)
        old = getattr(owner, name)
        if hasattr(old, "_orig_mod"):
            from ltpl.compaction.compact import put  # it loads torch.export

            put(old, small)
        else:
            setattr(owner, name, small)


def network_of(pl_module: Any, batch: Any) -> Network:
    """Return the network that `training_step` calls with a batch, and arguments to follow.

    See `call_of`.
    """
    found = call_of(pl_module, batch)
    return replace(found, arguments=detached(found.arguments))


def call_of(pl_module: Any, batch: Any) -> Network:
    """Return the network that `training_step` calls with a batch, and the arguments as they are.

    It is the smallest submodule that holds every parameter that trains: a loss or a metric beside
    it is not part of it. Nothing of the module changes.

    Raises:
        ValueError: If a training step calls none.
    """
    must_lie_here("Compaction, or a trunk other than 'all',", pl_module)
    path, module = smallest(pl_module)
    network = uncompiled(module)
    seen: list[tuple[Any, ...]] = []

    def called(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(positional(network, args, kwargs))
        raise Called

    handle = module.register_forward_pre_hook(called, with_kwargs=True)
    try:
        with borrowed(pl_module), idle(pl_module), torch.no_grad(), contextlib.suppress(Called):
            step_output(pl_module, batch)
    finally:
        handle.remove()
    if not seen:
        raise ValueError(
            f"training_step of {type(pl_module).__name__} does not call its "
            f"{path or 'forward'}, so it is not known what the network computes."
        )
    return Network(path, network, seen[0])


def uncompiled(module: nn.Module) -> nn.Module:
    """Return what is compiled, without its wrapper."""
    inner: nn.Module = getattr(module, "_orig_mod", module)
    return inner


def smallest(pl_module: nn.Module) -> tuple[str, nn.Module]:
    """Return path and object of the smallest submodule with every parameter that trains."""
    averages = [m for m in pl_module.modules() if isinstance(m, AveragedModel)]
    averaged = {id(p) for average in averages for p in average.parameters()}
    everything = {id(p) for p in pl_module.parameters() if p.requires_grad} - averaged
    path, module = "", pl_module
    found = path, module
    while True:
        for name, child in module.named_children():
            if everything <= {id(p) for p in child.parameters()} and name != "_orig_mod":
                path, module = f"{path}.{name}".lstrip("."), child
                break
        else:
            return found
        if _is_called(module):
            found = path, module


def outermost(pl_module: nn.Module) -> tuple[str, nn.Module]:
    """Return path and object of the largest submodule with every parameter that trains.

    It is the module itself only if there is no other.
    """
    names = smallest(pl_module)[0].split(".")
    for count in range(1, len(names) + 1):
        path = ".".join(names[:count])
        if path and _is_called(pl_module.get_submodule(path)):
            return path, pl_module.get_submodule(path)
    return "", pl_module


def _is_called(module: nn.Module) -> bool:
    """Whether a module has a forward of its own; a list has none."""
    return getattr(module.forward, "__func__", None) is not nn.Module.forward


def positional(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """Return the arguments of a call by position.

    Raises:
        ValueError: If some can only be given by name.
    """
    if not kwargs:
        return args
    bound = inspect.signature(network.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    if by_name := [name for name in kwargs if name in bound.kwargs or name not in bound.arguments]:
        raise ValueError(
            f"{type(network).__name__} is called with {', '.join(by_name)}, which its forward "
            "takes by name only; such a call cannot be followed."
        )
    return bound.args


def detached(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return arguments that hold on to no graph, sparse ones dense: they are to be followed."""

    def free(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return x.detach() if x.layout == torch.strided else x.detach().to_dense()

    return tuple(map(free, arguments))


class _Idle:
    """Stands for an optimiser that does not step."""

    def __init__(self, optimizer: Any):
        self._optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def step(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    def zero_grad(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    def toggle_model(self, *_: Any, **__: Any) -> Any:
        """Do nothing."""
        return contextlib.nullcontext()


@contextlib.contextmanager
def idle(pl_module: Any) -> Iterator[None]:
    """Let nothing be logged, trained or counted while the block runs."""

    def stop(*_: Any, **__: Any) -> None:
        raise Called

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def optimizers(*_: Any, **__: Any) -> Any:
        found = type(pl_module).optimizers(pl_module)
        return [_Idle(o) for o in found] if isinstance(found, list) else _Idle(found)

    stubs: dict[str, Any] = dict.fromkeys(("log", "log_dict"), nothing)
    if not pl_module.automatic_optimization:
        quiet = ("toggle_optimizer", "untoggle_optimizer", "clip_gradients")
        stubs |= {**dict.fromkeys(quiet, nothing), "manual_backward": stop}
        stubs["optimizers"] = optimizers
    own = vars(pl_module)
    before = {name: own[name] for name in stubs if name in own}
    metrics = [m for m in pl_module.modules() if hasattr(m, "_update_count")]
    counted = [(m, [*m._defaults, "_update_count", "_computed"]) for m in metrics]
    states = [(m, n, copy.deepcopy(getattr(m, n))) for m, names in counted for n in names]
    own.update(stubs)
    try:
        yield
    finally:
        for name in stubs:
            del own[name]
        own.update(before)
        for metric, name, state in states:
            setattr(metric, name, state)


def what_is_left(pl_module: Any, mask: Mask, batch: Any) -> str:
    """Return, as a table, what a mask leaves of each layer after compaction; or why nobody knows.

    Args:
        pl_module: The module; it is left as it was.
        mask: What is kept.
        batch: A training batch.
    """
    try:
        place = network_of(pl_module, batch)
        from ltpl.compaction.left import (
            left,
            written,
        )  # it loads torch.export, which takes its time

        return written(left(place.module, place.inside(mask), place.arguments))
    except ValueError as error:
        return f"What compaction would leave is not known: {error}"
