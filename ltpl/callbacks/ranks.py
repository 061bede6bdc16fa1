"""Several processes: the same mask on all of them, gradients of all of them, one that speaks."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from ltpl.masks.mask import Mask
from ltpl.masks.saliency import Reduce, alone


def mean_over_ranks() -> Reduce:
    """Return what averages a tensor over all processes, for `prune(reduce=...)`.

    All have to call it with tensors of the same shapes in the same order. Where torch is not
    distributed, a tensor comes back as it is.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return alone

    def mean(tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total / torch.distributed.get_world_size()

    return mean


def must_agree(trainer: Any, who: str, what: str, digest: Callable[[], str | None]) -> None:
    """Raise on every process if they hold different things; all of them have to ask.

    Args:
        trainer: The Trainer.
        who: Who holds it.
        what: What it is.
        digest: Gives its SHA-256; None if this process holds nothing. Not called if it is alone.

    Raises:
        ValueError: If the digests differ.
    """
    if trainer.world_size == 1:
        return
    mine, failed = bytes(32), None
    try:
        mine = bytes.fromhex(digest() or "00" * 32)
    except ValueError as error:  # the others must not wait for this process
        failed = error
    sent = torch.tensor(list(mine), dtype=torch.uint8, device=trainer.strategy.root_device)
    rows = [torch.empty_like(sent) for _ in range(trainer.world_size)]
    torch.distributed.all_gather(rows, sent)
    found = [bytes(row.tolist()).hex() for row in rows]
    if failed is not None:
        raise failed
    if len(set(found)) > 1:
        holders = "; ".join(
            f"rank {', '.join(str(rank) for rank, held in enumerate(found) if held == each)}: "
            f"{each if int(each, 16) else 'none'}"
            for each in dict.fromkeys(found)
        )
        raise ValueError(
            f"{who}: {what} differs between processes ({holders}): give all of them the same seed, "
            "checkpoint and files."
        )


def of_first(trainer: Any, mask: Mask) -> Mask:
    """Return the mask of the first process, on the devices of this one."""
    if trainer.world_size == 1:
        return mask
    # a tensor on a GPU would arrive on the GPU of the first process
    first: Mask = trainer.strategy.broadcast(mask.to("cpu"))
    here = {name: k.to(mask[name].device) if name in mask else k for name, k in first.items()}
    return Mask(here, first.metadata)


@contextlib.contextmanager
def one_voice(trainer: Any) -> Iterator[None]:
    """Let the first process alone warn while the block runs."""
    if trainer.is_global_zero:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
