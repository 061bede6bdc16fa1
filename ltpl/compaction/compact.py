"""`compact`: a masked network in, a smaller one out that computes the same."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.compaction.plan import Compaction, plan
from ltpl.compaction.proof import drawn, prove
from ltpl.masks.errors import checked
from ltpl.masks.mask import Mask

_log = logging.getLogger(__name__)


@checked
@torch.inference_mode(mode=False)  # else the result could never be trained
def compact(
    model: nn.Module,
    mask: Mask | None = None,
    example_input: Any = None,
    *,
    batches: Iterable[Any] | None = None,
    round_to: int = 1,
    selection: bool = True,
    tolerance: float = 1e-4,
) -> nn.Module:
    """Return a smaller network that computes what the masked one computes; `model` is unchanged.

    What is pruned is really gone: the result is a network of the same class and the same layers
    with fewer channels and neurons, under the same names. It is compared with the masked network
    before it is returned; the logger `ltpl.compaction.compact` says by how much they differ.

    A channel goes if nobody reads it, if it is zero, or if it is a constant that the bias of the
    next layer can take over. Channels that are added together go together. An operation that is
    not known is refused by its name.

    Args:
        model: The network.
        mask: What is kept, over weights or over scaling factors and shifts; if not given, what is
            not zero is.
        example_input: What the network is called with: a tensor, or a tuple of arguments.
        batches: Real inputs, each like `example_input`, to compare both networks on; drawn ones if
            not given.
        round_to: Numbers of channels are raised to multiples of this, with dead ones.
        selection: Whether a BatchNorm that reads more channels than it keeps may select them, as
            in pre-activation and densely connected networks. It costs a copy of what is selected.
        tolerance: The largest difference allowed, as a share of the largest output; 1e-10 in
            float64.

    Raises:
        CompactionError: A `ValueError`, if an operation is not known, the network cannot be
            followed, or the two networks differ.
        ValueError: If an option is out of range or the mask does not fit.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> keep = torch.tensor([[True] * 4, [False] * 4, [True] * 4])
        >>> compact(net, Mask({"0.weight": keep}), torch.rand(1, 4))
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=2, bias=True)
        )
    """
    inputs = [] if batches is None else [arguments(batch) for batch in batches]
    if example_input is None and not inputs:
        raise ValueError("compact needs an example_input, or batches: what the network is fed.")
    example = inputs[0] if example_input is None else arguments(example_input)
    found = planned(model, mask, example, inputs, round_to, selection, tolerance)
    small = found.apply(copy.deepcopy(uncompiled(model)))
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    _log.info("Compacted %s -> %s parameters; %s", f"{before:,}", f"{after:,}", found.proof)
    return small


def planned(
    model: nn.Module,
    mask: Mask | None,
    example: tuple[Any, ...],
    batches: Iterable[tuple[Any, ...]] = (),
    round_to: int = 1,
    selection: bool = True,
    tolerance: float = 1e-4,
    keep_root: bool = False,
) -> Compaction:
    """Find out what can go, and prove it on copies.

    Args:
        model: The network; it is left as it was.
        mask: What is kept.
        example: The arguments of a call.
        batches: More of them; drawn ones if there are none.
        round_to: Numbers of channels are multiples of this.
        selection: Whether a BatchNorm may select channels of its input.
        tolerance: The largest difference allowed, as a share of the largest output.
        keep_root: Whether the network has to stay the same object.

    Raises:
        CompactionError: If it cannot be done, or the result differs.
    """
    if round_to < 1:
        raise ValueError(f"round_to={round_to}: at least 1.")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance}: a share of the largest output, above 0.")
    model = uncompiled(model)
    found = plan(model, mask, example, round_to, selection, keep_root)
    masked, small = copy.deepcopy(model), found.apply(copy.deepcopy(model))
    found.mask.apply_(masked)
    doubles = copy.deepcopy(masked).double(), found.apply(copy.deepcopy(model).double())
    checked = list(batches) or drawn(example, 2)
    return replace(found, proof=prove(masked, small, doubles, checked, tolerance))


def arguments(batch: Any) -> tuple[Any, ...]:
    """Return the positional arguments that a batch stands for."""
    return (
        (batch,)
        if isinstance(batch, Tensor) or not isinstance(batch, (tuple, list))
        else tuple(batch)
    )


def uncompiled(model: nn.Module) -> nn.Module:
    """Return what `torch.compile` wraps."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def put(wrapper: nn.Module, small: nn.Module) -> None:
    """Let `torch.compile` wrap another network."""
    if uncompiled(wrapper) is not small:
        wrapper._orig_mod = small
        wrapper._initialize()  # type: ignore[operator]
