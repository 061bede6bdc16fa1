"""Which process decides and writes, and how the others wait for it."""

from __future__ import annotations

import torch
from lightning_utilities.core.rank_zero import rank_zero_only


def leads() -> bool:
    """Whether this process is the one that decides and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def wait_for_all() -> None:
    """Wait until every process is here; a single one does not wait."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
