"""Moments of the dense training that stay: branches rewind to them, or prune there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import override

from ltpl.callbacks.rewinding import RewindToEpoch
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.step import Step

EARLY_BIRD = "early_bird"  # the moment that an early-bird rule has found


def kept_at(folder: Path, step: Step) -> Path:
    """Return where a dense round's folder keeps a moment."""
    return folder / f"snapshot_{step}.safetensors"


class KeepSnapshot(RewindToEpoch):
    """Keep the network of one moment in the folder of its round; nothing goes back.

    Args:
        step: When.
        folder: Folder of the round.
    """

    def __init__(self, step: Step, folder: Path):
        super().__init__(at=str(step))
        self.folder = folder

    @property
    def state_key(self) -> str:
        """Another one for each moment."""
        return f"KeepSnapshot({self.step})"

    @override
    def _store(self, trainer: Any, snapshot: Snapshot) -> str:
        path = kept_at(self.folder, self.step)
        if trainer.is_global_zero:
            snapshot.save(path)
        return str(path)


def found_early(folder: Path, amount: float) -> Path:
    """Return the ticket that an early-bird rule has found in a dense round.

    Args:
        folder: Folder of the dense round.
        amount: Which share it prunes.

    Raises:
        ValueError: If none was found for this share.
    """
    path = folder / f"{EARLY_BIRD}_{amount:g}"
    if not path.is_dir():
        there = sorted(p.name for p in folder.glob(f"{EARLY_BIRD}_*") if p.is_dir())
        raise ValueError(
            f"drawn_at={EARLY_BIRD!r}: {path} is not there ({', '.join(there) or 'no ticket is'}): "
            "the dense training of the run needs --early_bird EarlyBird --early_bird.action save "
            f"with {amount:g} among its amounts, and the rule must have found it."
        )
    return path
