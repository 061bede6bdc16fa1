"""Copies of the network that other callbacks average: EMA and SWA. They must be masked too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ltpl.masks.mask import Mask


def averaged_copies(
    trainer: Any, pl_module: nn.Module
) -> Iterator[tuple[nn.Module, Tensor | None]]:
    """Yield each averaged copy of `pl_module` with its count of averaged steps.

    An average of dense and pruned weights is dense: without this, weight averaging silently
    brings back what was pruned.
    """
    for callback in trainer.callbacks:
        for value in vars(callback).values():
            if isinstance(value, AveragedModel):
                yield value.module, value.n_averaged
            elif isinstance(value, type(pl_module)) and value is not pl_module:
                yield value, getattr(callback, "n_averaged", None)


def mask_averages(trainer: Any, pl_module: nn.Module, mask: Mask) -> None:
    """Set to zero in every average what `mask` does not keep."""
    for copy, _ in averaged_copies(trainer, pl_module):
        mask.apply_(copy)


@torch.no_grad()
def restart_averages(trainer: Any, pl_module: nn.Module) -> bool:
    """Let every average start anew from the live weights; say whether there was one."""
    copies = list(averaged_copies(trainer, pl_module))
    for copy, count in copies:
        copy.load_state_dict(pl_module.state_dict())
        if count is not None:
            count.zero_()
    return bool(copies)
