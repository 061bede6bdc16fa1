"""Lottery tickets for PyTorch Lightning: find the sparse subnetwork, prove it, use it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltpl.compaction import compact, load, save
    from ltpl.rounds.find import find_tickets

__version__ = "0.1.0"
__all__ = ["compact", "find_tickets", "load", "save"]

_ROOMS = dict.fromkeys(("compact", "load", "save"), "ltpl.compaction")
_ROOMS["find_tickets"] = "ltpl.rounds.find"


def __getattr__(name: str) -> Any:
    """Import Lightning, or what exports graphs, only when something of it is asked for."""
    if name in _ROOMS:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'ltpl' has no attribute {name!r}")
