"""Where a ticket's kept weights start: mask-1 actions of Zhou et al. (2019), and a fresh draw."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ltpl.masks.mask import Mask
from ltpl.masks.select import named_parameters
from ltpl.masks.shards import gathered, whole

KEPT = ("rewind", "sign_constant", "reshuffle", "reinit")
PRUNED = ("zero", "freeze")


def sign_constant(weight: Tensor) -> Tensor:
    """Every weight becomes its sign times the standard deviation of its layer."""
    return weight.sign() * weight.float().std(correction=0).to(weight.dtype)


def reshuffle(weight: Tensor, keep: Tensor, generator: torch.Generator) -> Tensor:
    """The kept values change places among the kept positions of their layer."""
    values = weight[keep]
    shuffled = weight.clone()
    shuffled[keep] = values[torch.randperm(values.numel(), generator=generator)]
    return shuffled


def starting_weights(
    weights: Mapping[str, Tensor], mask: Mask, kept: str, seed: int
) -> dict[str, Tensor]:
    """Return the values of the masked parameters that the kept weights start from.

    Args:
        weights: The snapshot's weights, on the CPU.
        mask: What is kept.
        kept: `rewind`, `sign_constant` or `reshuffle`.
        seed: Seed of the shuffle.
    """
    start = {}
    for name, keep in mask.items():
        if kept == "sign_constant":
            start[name] = sign_constant(weights[name])
        elif kept == "reshuffle":
            generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
            start[name] = reshuffle(weights[name], keep.cpu(), generator)
        else:
            start[name] = weights[name]
    return start


@torch.no_grad()
def redraw_(model: nn.Module, must: Iterable[str], seed: int) -> list[str]:
    """Draw every layer anew with its own `reset_parameters()`; return the names left as they were.

    Children are drawn before their parents, so a parent's own initialisation has the last word.

    Args:
        model: The network, changed in place.
        must: Names that have to be drawn.
        seed: Seed of the draw; the global random state is untouched.

    Raises:
        ValueError: If one of `must` belongs to no module with `reset_parameters()`.
    """
    with gathered(model):
        return _redraw(model, must, seed)


def _redraw(model: nn.Module, must: Iterable[str], seed: int) -> list[str]:
    parameters = named_parameters(model)
    before = {name: p.clone() for name, p in parameters.items()}
    for parameter in parameters.values():
        if parameter.is_floating_point():
            parameter.fill_(math.nan)
    devices = sorted({p.device.index for p in parameters.values() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for module in reversed(list(model.modules())):
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    untouched = [name for name, p in parameters.items() if bool(p.isnan().any())]
    for name in untouched:
        parameters[name].copy_(before[name])
    if lacking := sorted(set(must) & set(untouched)):
        for name, parameter in parameters.items():
            parameter.copy_(before[name])
        raise ValueError(
            f"reinit: no module around {lacking[0]!r} has reset_parameters(); add one to the "
            "network, or use mask_1='reshuffle'."
        )
    return untouched


def warn_of_other_scale(model: nn.Module, initial: Mapping[str, Tensor], mask: Mask) -> None:
    """Warn if a fresh draw is much wider or narrower than the network's own initialisation."""
    parameters = named_parameters(model)
    for name in mask:
        both = whole(parameters[name].detach()), initial[name].detach()
        new, old = (float(t.float().std()) for t in both)
        if parameters[name].numel() >= 1000 and not 0.8 < new / max(old, 1e-30) < 1.25:
            warnings.warn(
                f"reinit draws {name!r} by its layer's reset_parameters() (std {new:.3g}), but it "
                f"started with std {old:.3g}: the network initialises itself elsewhere. Give it a "
                "reset_parameters() that does the same.",
                stacklevel=3,
            )
            return
