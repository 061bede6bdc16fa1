"""`Ticket`: a mask, the state that training starts from, and what made it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltpl.masks.errors import check_types, checked
from ltpl.masks.mask import Mask
from ltpl.tickets.snapshot import Snapshot

MASK, START = "mask.safetensors", "snapshot.safetensors"
FINAL = "final.safetensors"  # of a finished round: the trained network


@dataclass(frozen=True)
class Ticket:
    """All that a round starts from.

    Args:
        mask: What is kept.
        start: Weights and buffers, with optimiser and schedule where they go on.
        made_by: How it was made, and how training goes on: JSON values only.

    Example:
        >>> from torch import nn
        >>> net = nn.Linear(4, 2)
        >>> ticket = Ticket(Mask.dense({"weight": net.weight}), Snapshot.take("0ep", net))
        >>> ticket.mask.density
        1.0
    """

    mask: Mask
    start: Snapshot
    made_by: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(Ticket, vars(self))

    def save(self, folder: str | Path) -> None:
        """Write `snapshot.safetensors` and `mask.safetensors`; with the second, it is there."""
        self.start.save(Path(folder, START))
        metadata = {"made_by": json.dumps(self.made_by)}
        Mask(dict(self.mask.items()), metadata).save(Path(folder, MASK))

    @classmethod
    @checked
    def load(cls, folder: str | Path) -> Ticket:
        """Read the ticket of a round's folder; no code in the files is run.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If a file is cut short or was changed.
        """
        mask = Mask.load(Path(folder, MASK))
        start = Snapshot.load(Path(folder, START))
        try:
            made_by = json.loads(mask.metadata.get("made_by", "{}"))
        except (ValueError, TypeError, AttributeError, RecursionError):
            made_by = None
        if not isinstance(made_by, dict):
            raise ValueError(f"{Path(folder, MASK)} does not say how its ticket was made.")
        return cls(mask, start, made_by)

    @classmethod
    def is_whole(cls, folder: str | Path) -> bool:
        """Whether a round's folder holds a ticket that can be read."""
        try:
            cls.load(folder)
        except (FileNotFoundError, ValueError):
            return False
        return True
