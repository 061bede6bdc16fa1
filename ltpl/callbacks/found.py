"""What is found is kept: a ticket in a folder of its own beside the logs."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from ltpl.callbacks.position import position
from ltpl.callbacks.ranks import must_agree
from ltpl.masks.mask import Mask
from ltpl.masks.watch import Watch
from ltpl.tickets.files import digest_of, stored_digest
from ltpl.tickets.snapshot import FORMAT, Snapshot
from ltpl.tickets.ticket import MASK, START, Ticket


def keep_ticket(
    trainer: Any, pl_module: Any, mask: Mask, made_by: dict[str, Any], folder: Path, name: str
) -> str:
    """Write a ticket once for all ranks; return its folder.

    It is `folder / name`, with a number where there is another ticket already: the file of an
    earlier run is never replaced.

    Args:
        trainer: Its position and what it trains with go into the ticket.
        pl_module: Its weights do.
        mask: What is kept.
        made_by: How it was found: `epoch`, `threshold`, `distances` and the rest.
        folder: Where the logs are.
        name: Of the ticket.
    """
    path = folder / name
    ticket = Ticket(mask, _snapshot(trainer, pl_module), made_by)  # all ranks hold some of it
    if trainer.is_global_zero:
        path = _place(ticket, folder, name)
        ticket.save(path)
    path = trainer.strategy.broadcast(path)
    rank_zero_info(f"{name} was found after {made_by['epoch']} epochs: {path}")
    distance = made_by["distances"].get("to_init", 1.0)
    if distance <= made_by["threshold"]:
        rank_zero_warn(
            f"{name}: the mask that was found differs in only {distance:.3g} of its bits from that "
            "of initialisation: it is hardly training that chose it."
        )
    return str(path)


def must_watch_alike(trainer: Any, name: str, watch: Watch) -> None:
    """Raise on every process if they have seen other masks until now."""
    must_agree(trainer, name, "what was watched", lambda: digest_of(watch.state(), ""))


def speak_of_factors(name: str, epoch: int, constant: bool, said: bool) -> bool:
    """Warn, once each, of scaling factors that differ too early or are equal too long.

    Args:
        name: Who warns.
        epoch: How many epochs are trained.
        constant: Whether the factors of each layer are equal.
        said: Whether it was said that they are.

    Returns:
        Whether it was said that they are equal, by now.
    """
    if not epoch and not constant:
        rank_zero_warn(
            f"{name}: scaling factors differ before training (a random initialisation, or a "
            "network trained before), so there is a mask already, and the rule may find just that "
            "one: look at to_init, or start from a constant such as gamma=0.5."
        )
    if epoch and constant and not said:
        rank_zero_warn(
            f"{name}: after {epoch} epochs the scaling factors of each layer are equal and say "
            "nothing about its channels, so there is no mask. Are they trained?"
        )
    return said or bool(epoch and constant)


def _snapshot(trainer: Any, pl_module: Any) -> Snapshot:
    where = position(trainer)
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    step = f"{where['epoch']}ep"
    snapshot = Snapshot.take(step, pl_module, trainer.optimizers, schedulers, where)
    try:
        digest_of(vars(snapshot), FORMAT)
    except TypeError as error:
        rank_zero_warn(f"The ticket is stored without optimisers and schedules: {error}")
        return dataclasses.replace(snapshot, optimizers=[], schedulers=[])
    return snapshot


def _place(ticket: Ticket, folder: Path, name: str) -> Path:
    """Return a folder that is free, or that holds this very ticket, perhaps half of it."""
    digest = digest_of(vars(ticket.start), FORMAT)
    for number in itertools.count():
        path = folder / (f"{name}-v{number}" if number else name)
        if not path.exists():
            return path
        if stored_digest(path / START) == digest and _same_mask(path / MASK, ticket.mask):
            return path
    raise AssertionError


def _same_mask(path: Path, mask: Mask) -> bool:
    try:
        return Mask.load(path) == mask
    except FileNotFoundError:  # stopped between the two files
        return True
    except ValueError:
        return False
