"""Compaction while a network trains: optimisers and averages follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves, tree_map

from ltpl.compaction.compact import arguments, planned, put, uncompiled
from ltpl.compaction.errors import CompactionError
from ltpl.compaction.plan import Compaction, plan
from ltpl.masks.mask import Mask
from ltpl.masks.select import named_parameters
from ltpl.tickets.snapshot import Snapshot


def compact_(
    model: nn.Module,
    mask: Mask | None,
    example_input: Any,
    optimizers: Iterable[Optimizer] = (),
    averages: Iterable[nn.Module] = (),
    **options: Any,
) -> tuple[nn.Module, Compaction]:
    """Make a network small in place, with all that trains it; nothing changes if it cannot be done.

    Parameters stay the same objects, so optimisers keep their groups; momenta and moments lose the
    slices that the parameters lose. A compiled network compiles itself anew. A network wrapped for
    several processes has to be wrapped anew, and an `Enforcement` of masks attached anew.

    Args:
        model: The network, not its wrapper for several processes.
        mask: What is kept.
        example_input: What it is called with: a tensor, or a tuple of arguments.
        optimizers: What trains it.
        averages: Averages of the network: `AveragedModel`, or copies of the network.
        **options: `batches`, `round_to`, `selection`, `tolerance`, as for `compact`; `keep_root`:
            numbers in the network's own `forward` stay, so that it stays the same object.

    Returns:
        The network, and what was removed. It is another object only if numbers of channels stand
        in its own `forward`.

    Raises:
        CompactionError: If it cannot be done.
    """
    holders = list(averages)
    inner = [a.module if isinstance(a, AveragedModel) else a for a in holders]
    options["keep_root"] = options.get("keep_root") or any(
        a is holder for a, holder in zip(inner, holders, strict=True)
    )
    small, found, copies = compact_together(
        model, mask, example_input, optimizers, inner, **options
    )
    for holder, copy in zip(holders, copies, strict=True):
        if isinstance(holder, AveragedModel):
            holder.module = copy
    return small, found


def compact_together(
    model: nn.Module,
    mask: Mask | None,
    example_input: Any,
    optimizers: Iterable[Optimizer],
    averages: Sequence[nn.Module],
    **options: Any,
) -> tuple[nn.Module, Compaction, list[nn.Module]]:
    """Do what `compact_` does; return the copies too, which may be other objects as well."""
    example = arguments(example_input)
    batches = [arguments(batch) for batch in options.pop("batches", [])]
    network, optimizers = uncompiled(model), list(optimizers)
    found = planned(network, mask, example, batches, **options)
    theirs = [_planned_alike(found, average, mask, example, options) for average in averages]
    names = {parameter: name for name, parameter in named_parameters(network).items()}
    slots = [change for each in optimizers for change in _narrowed_slots(each, found, names)]
    gradients = [(p, found.narrow(n, p.grad)) for p, n in names.items() if p.grad is not None]
    small = _applied(found, model)
    copies = [_applied(each, average) for each, average in zip(theirs, averages, strict=True)]
    for parameter, gradient in gradients:
        parameter.grad = gradient
    for state, key, slot in slots:
        state[key] = slot
    for optimizer in optimizers:
        take_up(optimizer, uncompiled(small), found.spec.biases)
    return small, found, copies


def _applied(found: Compaction, model: nn.Module) -> nn.Module:
    small = found.apply(uncompiled(model))
    if uncompiled(model) is model:
        return small
    put(model, small)
    return model


def _planned_alike(
    found: Compaction, average: nn.Module, mask: Mask | None, example: tuple[Any, ...], options: Any
) -> Compaction:
    """Plan for a copy with other weights; it has to lose the same channels."""
    rest = {k: v for k, v in options.items() if k in ("round_to", "selection", "keep_root")}
    own = uncompiled(average)
    like = next(p for p in own.parameters() if p.is_floating_point())

    def there(x: Any) -> Any:  # an average may be elsewhere, and in another precision
        if not isinstance(x, Tensor):
            return x
        return x.to(like) if x.is_floating_point() else x.to(like.device)

    theirs = plan(own, mask, tree_map(there, example), **rest)
    if _indices(theirs) != _indices(found):
        raise CompactionError(
            "An averaged copy of the network would lose other channels than the network itself. "
            "Nothing was changed."
        )
    return theirs


def _indices(found: Compaction) -> dict[str, dict[int, list[int]]]:
    return {n: {d: i.tolist() for d, i in dims.items()} for n, dims in found.kept.items()}


@torch.no_grad()
def _narrowed_slots(
    optimizer: Optimizer, found: Compaction, names: Mapping[Any, str]
) -> list[tuple[Any, str, Tensor]]:
    """Return what an optimiser's momenta and moments become, and where they are.

    Raises:
        CompactionError: If it keeps something that does not have the shape of its parameter.
    """
    inner = [held for held in vars(optimizer).values() if isinstance(held, Optimizer)]
    changes = [change for held in inner for change in _narrowed_slots(held, found, names)]
    for parameter, state in optimizer.state.items():
        name = names.get(parameter)
        if name is None or not found.kept:
            continue
        for key, slot in state.items():
            if isinstance(slot, Tensor) and slot.shape == parameter.shape:
                if name in found.kept:
                    changes.append((state, key, found.narrow(name, slot)))
                continue
            sizes = [x.numel() for x in tree_leaves(slot) if isinstance(x, Tensor)]
            allowed = 1 if name in found.kept else parameter.numel()
            if isinstance(slot, (list, dict)) or max(sizes, default=0) > allowed:
                raise CompactionError(
                    f"{type(optimizer).__name__} keeps {key!r} for {name}, which has not the shape "
                    f"{tuple(parameter.shape)} of the parameter, so it cannot follow. Nothing was "
                    "changed."
                )
    return changes


def take_up(optimizer: Optimizer, model: nn.Module, biases: Iterable[str]) -> None:
    """Let the optimiser of a layer's weight train its new bias, which comes after the weight.

    There it is too in an optimiser that is made anew for the small network; a bias that such an
    optimiser holds in another group moves.

    Args:
        optimizer: The optimiser.
        model: The compacted network.
        biases: The layers, by path.
    """
    for path in biases:
        layer: Any = model.get_submodule(path)
        groups = [group["params"] for group in optimizer.param_groups]
        for group in groups:
            group[:] = [parameter for parameter in group if parameter is not layer.bias]
        for group in groups:
            place = next((i for i, p in enumerate(group) if p is layer.weight), None)
            if place is not None:
                group.insert(place + 1, layer.bias)


def narrowed_snapshot(
    snapshot: Snapshot, found: Compaction, prefix: str, names: Sequence[Sequence[str]]
) -> Snapshot:
    """Return what a snapshot of the dense network says of the compacted one.

    A bias that compaction has added starts at zero, without slots.

    Args:
        snapshot: Taken before.
        found: What was removed.
        prefix: What the names of the network's parameters begin with, in the snapshot.
        names: For each optimiser the names of its parameters now, in its order.
    """

    def cut(name: str, tensor: Any, shape: torch.Size | None = None) -> Any:
        if not name.startswith(prefix) or (shape is not None and tensor.shape != shape):
            return tensor
        return found.narrow(name.removeprefix(prefix), tensor)

    weights = {name: cut(name, tensor) for name, tensor in snapshot.weights.items()}
    added = {f"{prefix}{path}.bias" for path in found.spec.biases}
    for path, more in found.folded.items():
        weights.setdefault(f"{prefix}{path}.bias", torch.zeros(len(more)))
    optimizers = []
    for state, order in zip(snapshot.optimizers, names, strict=True):
        before = [name for name in order if name not in added]
        now = {name: index for index, name in enumerate(order)}
        slots = {
            now[name]: {
                key: cut(name, slot, snapshot.weights[name].shape)
                if isinstance(slot, Tensor) and name in snapshot.weights
                else slot
                for key, slot in state["state"][index].items()
            }
            for index, name in enumerate(before)
            if index in state["state"]
        }
        groups = []
        for group in state["param_groups"]:
            here = [before[index] for index in group["params"]]
            mine = {*here, *(name.removesuffix("weight") + "bias" for name in here)}
            taken = [now[name] for name in order if name in mine & {*here, *added}]
            groups.append({**group, "params": taken})
        optimizers.append({**state, "state": slots, "param_groups": groups})
    buffers = {name: cut(name, tensor) for name, tensor in snapshot.buffers.items()}
    return replace(snapshot, weights=weights, buffers=buffers, optimizers=optimizers)
