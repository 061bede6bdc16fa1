"""`Snapshot`: all that a rewind may put back, copied at one moment and kept in one file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ltpl.masks.errors import check_types, checked
from ltpl.masks.select import named_buffers, named_parameters
from ltpl.masks.shards import is_sharded, like, whole, write_
from ltpl.tickets.files import digest_of, is_whole, load_state, save_state, stored_digest

FORMAT = "ltpl.snapshot/1"


@dataclass(frozen=True)
class Snapshot:
    """Copies, never aliases, of a network's state at a step.

    Args:
        step: When, as written: `2ep`.
        weights: Parameters by name.
        buffers: Buffers by name, such as BatchNorm statistics.
        optimizers: State of each optimiser.
        schedulers: State of each learning-rate scheduler.
        position: Epochs, batches and steps trained, as counted by what trains.
    """

    step: str
    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizers: list[Any] = field(default_factory=list)
    schedulers: list[Any] = field(default_factory=list)
    position: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(Snapshot, vars(self))

    @classmethod
    def take(
        cls,
        step: str,
        model: nn.Module,
        optimizers: Sequence[Optimizer] = (),
        schedulers: Sequence[Any] = (),
        position: dict[str, int] | None = None,
    ) -> Snapshot:
        """Copy the state of `model` and of what trains it to the CPU.

        Sharded parameters are gathered: all processes have to take it at the same moment.
        """
        return cls(
            step,
            {name: _copied(p) for name, p in named_parameters(model).items()},
            {name: _copied(b) for name, b in named_buffers(model).items()},
            [_copied(optimizer.state_dict()) for optimizer in optimizers],
            [_copied(scheduler.state_dict()) for scheduler in schedulers],
            position or {},
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        save_state(path, vars(self), FORMAT)

    def save_beside(self, path: str | Path) -> Path:
        """Write `path`, or `path` with a number where another snapshot is already.

        The file of an earlier run may be needed to resume that run, so it is never replaced.
        """
        path, digest = Path(path), digest_of(vars(self), FORMAT)
        for number in itertools.count():
            free = path.with_stem(f"{path.stem}-v{number}") if number else path
            if free.exists() and stored_digest(free) != digest:
                continue
            if not is_whole(free, digest):
                self.save(free)
            return free
        raise AssertionError

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Snapshot:
        """Read a snapshot; a file that is missing, cut short or changed is refused."""
        try:
            found = cls(**load_state(path, FORMAT))
            tensors: list[Any] = [*found.weights.values(), *found.buffers.values()]
        except (TypeError, AttributeError):
            tensors = [None]
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise ValueError(f"{path} is no {FORMAT}: it holds something else.")
        return found

    @torch.no_grad()
    def restore_weights_(self, model: nn.Module) -> None:
        """Put weights and buffers back into the live tensors.

        Buffers that came later, or changed their shape since, are left as they are.

        Raises:
            ValueError: If a weight is missing in the snapshot or has another shape there.
        """
        weights, buffers = named_parameters(model), named_buffers(model)
        for name, weight in weights.items():
            if name not in self.weights or self.weights[name].shape != weight.shape:
                raise ValueError(
                    f"The snapshot of {self.step} does not fit: {name!r} is missing there or has "
                    "another shape."
                )
            write_(weight, self.weights[name])
        for name, kept in self.buffers.items():
            if name in buffers and buffers[name].shape == kept.shape:
                buffers[name].copy_(kept)

    def restore_optimizer_(self, index: int, optimizer: Optimizer, slots: bool) -> None:
        """Put back an optimiser's learning rate and other options; its slots too, or none.

        Args:
            index: Which of the optimisers.
            optimizer: The live optimiser.
            slots: Whether momenta and moments come back; otherwise they start fresh.
        """
        state = _copied(self.optimizers[index])
        if slots:
            _shard_slots(state, [p for group in optimizer.param_groups for p in group["params"]])
            optimizer.load_state_dict(state)
            return
        optimizer.state.clear()
        for group, kept in zip(optimizer.param_groups, state["param_groups"], strict=False):
            group.update({key: value for key, value in kept.items() if key != "params"})

    def restore_scheduler_(self, index: int, scheduler: Any) -> None:
        """Put a learning-rate scheduler back to where it was."""
        scheduler.load_state_dict(_copied(self.schedulers[index]))


def _shard_slots(state: dict[str, Any], stepped: Sequence[Tensor]) -> None:
    """Let slots of sharded parameters be sharded alike, which `load_state_dict` leaves whole."""
    for number, parameter in enumerate(stepped):
        slots = state["state"].get(number, {}) if is_sharded(parameter) else {}
        for name, slot in slots.items():
            if isinstance(slot, Tensor) and slot.shape == parameter.shape:
                slots[name] = like(slot, parameter)


def _copied(value: Any) -> Any:
    """Copy nested state; tensors go to the CPU, containers keep their type."""
    if isinstance(value, Tensor):
        return whole(value.detach()).to("cpu", copy=True)
    if isinstance(value, dict):
        copy = value.copy()
        for key, content in value.items():  # not update(): a Counter would add
            copy[key] = _copied(content)
        return copy
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(v) for v in value)
    return value
