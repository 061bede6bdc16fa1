"""`Lineage`: where a round lives, and the finished rounds that it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Lineage:
    """What callbacks are told of a round before it trains.

    A callback with a method `on_round(trainer, pl_module, lineage)` is called once a round.

    Args:
        seed: The replicate.
        level: How many prunings came before; 0 is the dense network.
        folder: Folder of the round.
        dense: Folder of the finished dense round; None while that is trained.
        previous: Folder of the finished round that was pruned to make this one; None for the dense.
        branch: Name of the branch; None in the main line.
    """

    seed: int
    level: int
    folder: Path
    dense: Path | None
    previous: Path | None
    branch: str | None = None
