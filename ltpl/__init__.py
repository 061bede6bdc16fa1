"""Lottery tickets for PyTorch Lightning: find the sparse subnetwork, prove it, use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltpl.rounds.find import find_tickets

__version__ = "0.1.0"
__all__ = ["find_tickets"]


def __getattr__(name: str) -> Any:
    """Import Lightning only when something of it is asked for."""
    if name in __all__:
        from ltpl.rounds import find

        return getattr(find, name)
    raise AttributeError(f"module 'ltpl' has no attribute {name!r}")
