"""Which process decides and writes, how the others follow, and that all hold the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from ltpl.rounds.siblings import watch

T = TypeVar("T")


def leads() -> bool:
    """Whether this process is the one that decides and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def processes() -> int:
    """Return how many processes train together, as far as they are connected."""
    connected = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if connected else 1


def several() -> bool:
    """Whether there are other processes, and a way to talk to them."""
    return processes() > 1


def rank() -> int:
    """Return the number of this process among those that train together."""
    return torch.distributed.get_rank() if several() else 0


def start_together(trainer: Any, module: Any) -> None:
    """Start the other processes, where the strategy has any, and connect to them.

    From then on they run the same command, and every Trainer to come uses this connection.

    Args:
        trainer: One like those to come.
        module: What it would train.

    Raises:
        ValueError: If the strategy trains where nothing it leaves can be seen.
    """
    strategy = trainer.strategy
    launcher = getattr(strategy, "launcher", None)
    if "MultiProcessing" in type(launcher).__name__:
        raise ValueError(
            "trainer.strategy trains in child processes, and what a round measures would be lost "
            "there. Use strategy='ddp', which starts the command once for each device."
        )
    if getattr(strategy, "_save_distributed_checkpoint", False):
        raise ValueError(
            f"trainer.strategy={type(strategy).__name__} with save_distributed_checkpoint: a round "
            "goes on from a checkpoint in one file. Set save_distributed_checkpoint=false."
        )
    if trainer.world_size == 1 or several():
        return
    if launcher is None:  # processes that were started already may go without
        watch([])
    else:
        launcher.launch(lambda: watch(getattr(launcher, "procs", [])))
    strategy.connect(module)
    strategy.setup_environment()


def wait_for_all() -> None:
    """Wait until every process is here; a single one does not wait."""
    if several():
        torch.distributed.barrier()


def from_leader(decide: Callable[[], T]) -> T:
    """Return on every process what a function returns on the one that leads.

    If it raises there, the others leave without a word: one process speaks for all.
    """
    if not several():
        return decide()
    told: list[Any] = [None]
    if not leads():
        torch.distributed.broadcast_object_list(told)
        if told[0] is None:
            sys.exit(0)
        return told[0][0]  # type: ignore[no-any-return]
    try:
        told = [(decide(),)]
    finally:
        torch.distributed.broadcast_object_list(told)
    return told[0][0]  # type: ignore[no-any-return]


def of_each(value: T) -> list[T]:
    """Return what every process has here, by rank."""
    if not several():
        return [value]
    found: list[Any] = [None] * processes()
    torch.distributed.all_gather_object(found, value)
    return found


def largest(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the largest of what the processes have at each place."""
    if not several():
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tensor.tolist()


def must_agree(what: str, digest: str) -> None:
    """Raise on every process if one of them holds something else.

    Raises:
        ValueError: Naming who differs.
    """
    found = of_each(digest)
    if strangers := [rank for rank, other in enumerate(found) if other != found[0]]:
        differ = ", ".join(f"{rank} has {found[rank][:12]}" for rank in strangers)
        raise ValueError(
            f"{what} is not the same in all processes: 0 has {found[0][:12]}, {differ}. Do all see "
            "the same folder?"
        )


def averaged(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the means over all processes: each has seen its share of the samples."""
    found = of_each(dict(metrics))
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}
