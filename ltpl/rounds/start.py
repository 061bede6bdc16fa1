"""`TicketStart`: optimisers and schedules begin a round where its ticket says."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from ltpl.callbacks.namespace import Callback
from ltpl.callbacks.policy import Policy
from ltpl.callbacks.rewinding import hold_learning_rate
from ltpl.tickets.ticket import Ticket


class TicketStart(Callback):
    """Put optimisers and schedules where the ticket says; a checkpoint loaded later wins.

    `last_rates` are the learning rates of the last batch: when training ends, a schedule has
    already gone a step further, often to zero.
    """

    def __init__(self) -> None:
        self.ticket: Ticket | None = None
        self.last_rates: list[list[float]] = []

    @override
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if self.ticket is None:
            return
        start, made_by = self.ticket.start, self.ticket.made_by
        for index, optimizer in enumerate(trainer.optimizers[: len(start.optimizers)]):
            start.restore_optimizer_(index, optimizer, slots=made_by["optimizer"] == "restored")
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        for index, scheduler in enumerate(schedulers[: len(start.schedulers)]):
            start.restore_scheduler_(index, scheduler)

    @override
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.last_rates = [[g.get("lr") for g in o.param_groups] for o in trainer.optimizers]

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"last_rates": self.last_rates}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_rates = state_dict["last_rates"]

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.ticket is not None and self.ticket.made_by["policy"] == Policy.finetune.value:
            hold_learning_rate(trainer)
