"""Edges that are the same for several processes, and written by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ltpl.callbacks.ranks import must_agree, of_first
from ltpl.masks.mask import Mask
from ltpl.tickets.edges import EDGES, EdgeTicket
from ltpl.tickets.lineage import Lineage


def keep_alike(trainer: Any, kept: Callable[[], Tensor]) -> None:
    """Raise on every process if they keep different edges."""
    must_agree(trainer, "EdgePruning", "the mask", lambda: Mask({"edges": kept()}).digest)


def of_first_edges(trainer: Any, keep: Tensor) -> Tensor:
    """Return which edges the first process keeps."""
    after = of_first(trainer, Mask({"edges": keep}))["edges"]
    keep_alike(trainer, lambda: after)
    return after


def write(trainer: Any, lineage: Lineage, ticket: EdgeTicket) -> None:
    """Write once for all processes what the next round trains on."""
    if trainer.is_global_zero:
        ticket.save(lineage.folder / EDGES)
    trainer.strategy.barrier()
