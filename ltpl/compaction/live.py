"""Compaction while a network trains: optimisers and averages follow."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ltpl.compaction.compact import arguments, planned, uncompiled
from ltpl.compaction.errors import CompactionError
from ltpl.compaction.plan import Compaction, plan
from ltpl.masks.mask import Mask
from ltpl.masks.select import named_parameters


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
    several processes has to be wrapped anew.

    Args:
        model: The network, not its wrapper for several processes.
        mask: What is kept.
        example_input: What it is called with: a tensor, or a tuple of arguments.
        optimizers: What trains it.
        averages: Averaged copies of the network (EMA, SWA).
        **options: `batches`, `round_to`, `selection`, `tolerance`, as for `compact`.

    Returns:
        The network, and what was removed. It is another object only if numbers of channels stand
        in its own `forward`.

    Raises:
        CompactionError: If it cannot be done.
    """
    example = arguments(example_input)
    batches = [arguments(batch) for batch in options.pop("batches", [])]
    network = uncompiled(model)
    found, _ = planned(network, mask, example, batches, **options)
    copies = [uncompiled(average) for average in averages]
    theirs = [_planned_alike(found, average, mask, example, options) for average in copies]
    names = {parameter: name for name, parameter in named_parameters(network).items()}
    shapes = {parameter: parameter.shape for parameter in names}
    gradients = {p: found.narrow(name, p.grad) for p, name in names.items() if p.grad is not None}
    for each, average in zip(theirs, copies, strict=True):
        each.apply(average)
    small = found.apply(network)
    for parameter, gradient in gradients.items():
        parameter.grad = gradient
    for optimizer in optimizers:
        narrow_slots(optimizer, found, names, shapes)
        _take_up(optimizer, small, found.spec.biases)
    return small, found


def _planned_alike(
    found: Compaction, average: nn.Module, mask: Mask | None, example: tuple[Any, ...], options: Any
) -> Compaction:
    """Plan for a copy with other weights; it has to lose the same channels."""
    rest = {k: v for k, v in options.items() if k in ("round_to", "selection")}
    twin = copy.deepcopy(average)
    theirs = plan(twin, mask, example, **rest)
    if _indices(theirs) != _indices(found):
        raise CompactionError(
            "An averaged copy of the network would lose other channels than the network itself. "
            "Nothing was changed."
        )
    return theirs


def _indices(found: Compaction) -> dict[str, dict[int, list[int]]]:
    return {n: {d: i.tolist() for d, i in dims.items()} for n, dims in found.kept.items()}


@torch.no_grad()
def narrow_slots(
    optimizer: Optimizer,
    found: Compaction,
    names: Mapping[Tensor, str],
    shapes: Mapping[Tensor, torch.Size],
) -> None:
    """Let an optimiser's momenta and moments lose what their parameters lost.

    Args:
        optimizer: The optimiser; one that it holds inside is followed too.
        found: What was removed.
        names: The name of each parameter.
        shapes: Its shape before.
    """
    for inner in vars(optimizer).values():
        if isinstance(inner, Optimizer):
            narrow_slots(inner, found, names, shapes)
    for parameter, state in optimizer.state.items():
        name = names.get(parameter)
        if name not in found.kept:
            continue
        for key, slot in state.items():
            if not isinstance(slot, Tensor) or slot.dim() == 0 or slot.numel() == 1:
                continue
            if slot.shape != shapes[parameter]:
                raise CompactionError(
                    f"{type(optimizer).__name__} keeps {key} of shape {tuple(slot.shape)} for "
                    f"{name}, which has {tuple(shapes[parameter])}: it cannot follow."
                )
            state[key] = found.narrow(name, slot).clone()


def _take_up(optimizer: Optimizer, model: nn.Module, biases: Iterable[str]) -> None:
    """Let the optimiser of a layer's weight train its new bias."""
    for path in biases:
        layer: Any = model.get_submodule(path)
        for group in optimizer.param_groups:
            if any(layer.weight is parameter for parameter in group["params"]):
                group["params"].append(layer.bias)
