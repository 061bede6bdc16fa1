"""`Experiment`: what builds everything anew for each round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ltpl.callbacks.pruning import PruneAtEpoch
from ltpl.callbacks.rewinding import RewindToEpoch
from ltpl.masks.schedule import PerRound

ALWAYS = {  # Trainer options of a round: it validates by itself, and shows the progress of rounds
    "num_sanity_val_steps": 0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": True,  # its own; that also keeps Lightning's default one away
}


@dataclass(frozen=True)
class Parts:
    """What one round is made of; nothing in it was used before.

    Args:
        module: The LightningModule, freshly initialised.
        data: The LightningDataModule, if the module does not bring its own data.
        trainer: The Trainer.
        pruner: How to prune; it holds the round's mask while training.
        rewinder: Where to go back to; not attached to the Trainer.
    """

    module: Any
    data: Any
    trainer: Any
    pruner: PruneAtEpoch
    rewinder: RewindToEpoch


class Experiment(Protocol):
    """Builds rounds, from a command line or from Python.

    `package` says whose Trainer it builds, `config` holds every option as JSON can say it,
    `amounts` how much is pruned at each level, and `again` what goes on with an interrupted run.
    """

    package: str
    again: str
    config: dict[str, Any]
    amounts: Sequence[float | None]

    def build(
        self, seed: int, folder: Path, callbacks: Sequence[Any], loggers: Sequence[Any]
    ) -> Parts:
        """Build everything anew.

        Args:
            seed: Seed of the initial weights.
            folder: Folder of the round.
            callbacks: Ours, to attach before all others, after the pruner.
            loggers: Ours.
        """
        ...


def check_levels(callbacks: Iterable[Any], deepest: int) -> None:
    """Ask the callbacks that have a `check_levels` whether they can work in such rounds.

    Args:
        callbacks: Those of a round.
        deepest: The last level; 0 is the dense network.

    Raises:
        ValueError: If one of them cannot.
    """
    for callback in callbacks:
        if ask := getattr(callback, "check_levels", None):
            ask(deepest)


def slots(prune: Any, rewind: Any) -> tuple[PruneAtEpoch, RewindToEpoch]:
    """Return pruner and rewinder of a round; their defaults where nothing is given.

    Raises:
        ValueError: If they are something that rounds cannot work with.
    """
    pruner = PruneAtEpoch() if prune is None else prune
    rewinder = RewindToEpoch() if rewind is None else rewind
    for option, given, kind in (
        ("prune", pruner, PruneAtEpoch),
        ("rewind", rewinder, RewindToEpoch),
    ):
        if not isinstance(given, kind):
            raise ValueError(
                f"{option}={type(given).__name__}: rounds need a {kind.__name__} (or a subclass) "
                "here; put other callbacks into trainer.callbacks."
            )
    if not isinstance(pruner.schedule, PerRound):
        raise ValueError(
            f"prune.epochs={getattr(pruner.schedule, 'epochs', pruner.schedule)!r}: rounds prune "
            "when a round has ended. Leave epochs out; to prune inside one fit use `ltpl fit`."
        )
    return pruner, rewinder
