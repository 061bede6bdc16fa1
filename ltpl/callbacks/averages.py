"""Copies of the network that are averaged, by callbacks or inside the module: EMA and SWA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ltpl.masks.mask import Mask
from ltpl.masks.select import named_parameters


def averaged_copies(
    trainer: Any, pl_module: nn.Module
) -> Iterator[tuple[nn.Module, str, Tensor | None]]:
    """Yield each averaged copy, the name of what it is a copy of, and its count of averages.

    An average of dense and pruned weights is dense: unmasked, weight averaging silently brings
    back what was pruned. Found are `torch.optim.swa_utils.AveragedModel`, held by a callback or by
    the module, and the copy of Lightning's `StochasticWeightAveraging`.
    """
    for owner in [*trainer.callbacks, *pl_module.modules()]:
        for attribute, value in [*vars(owner).items(), *getattr(owner, "_modules", {}).items()]:
            copy: nn.Module
            count: Tensor | None
            if isinstance(value, AveragedModel):
                copy, count = value.module, value.n_averaged
            elif attribute == "_average_model" and isinstance(value, nn.Module):
                copy, count = value, getattr(owner, "n_averaged", None)
            else:
                continue
            original = _original(copy, pl_module)
            if original is not None:
                yield copy, original, count


def _original(copy: nn.Module, pl_module: nn.Module) -> str | None:
    """Return the name of the submodule that `copy` has the parameters of, outermost first."""
    shapes = _shapes(copy)
    for name, module in pl_module.named_modules():
        if module is not copy and _shapes(module) == shapes:
            return str(name)
    return None


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in named_parameters(module).items()}


def mask_averages(trainer: Any, pl_module: nn.Module, mask: Mask) -> None:
    """Set to zero in every average what `mask` does not keep."""
    for copy, original, _ in averaged_copies(trainer, pl_module):
        prefix = f"{original}." if original else ""
        here = {n.removeprefix(prefix): keep for n, keep in mask.items() if n.startswith(prefix)}
        Mask(here).apply_(copy)


@torch.no_grad()
def restart_averages(trainer: Any, pl_module: nn.Module) -> bool:
    """Let every average start anew from the live weights; say whether there was one."""
    copies = list(averaged_copies(trainer, pl_module))
    for copy, original, count in copies:
        copy.load_state_dict(pl_module.get_submodule(original).state_dict())
        if count is not None:
            count.zero_()
    return bool(copies)
