"""`Measure`: what a round is judged by, on validation data alone: early stop, end, time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from typing_extensions import override

from ltpl.callbacks.namespace import Callback
from ltpl.masks.errors import unknown
from ltpl.rounds.ranks import averaged

LOSSES = ("loss", "nll", "mse", "mae", "error", "perplexity")  # what losses are called
KEPT = ("start", "loss", "early_stop", "early_stop_step", "best", "end", "end_step", "seconds")


class Measure(Callback):
    """Note the step of minimum validation loss, the last validation, and the training time.

    The state travels in the checkpoint, so an interrupted round judges all of itself.

    Args:
        keep_best: Whether to keep the weights of the early stop.
    """

    def __init__(self, keep_best: bool = False):
        self.start: dict[str, float] = {}
        self.loss: str | None = None
        self.keep_best = keep_best
        self.early_stop: dict[str, float] = {}
        self.early_stop_step: int | None = None
        self.best: dict[str, torch.Tensor] = {}
        self.end: dict[str, float] = {}
        self.end_step = -1
        self.seconds = 0.0
        self._began: float | None = None

    def start_with(self, metrics: Mapping[str, float], loss: str | None) -> None:
        """Note what was validated before training.

        Args:
            metrics: Validation metrics of the ticket.
            loss: Which of them is the loss; None if there is none.
        """
        self.start, self.loss = dict(metrics), loss

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._began = time.monotonic()

    @override
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.loss is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        found = trainer.callback_metrics
        own = {name: float(found[name]) for name in self.start if name in found}
        self.end = averaged(own)  # modules need not log with sync_dist
        self.end_step = int(trainer.global_step)
        if self.end[self.loss] < self.early_stop.get(self.loss, float("inf")):
            self.early_stop, self.early_stop_step = self.end, self.end_step
            if self.keep_best:
                state = pl_module.state_dict()
                self.best = {n: t.detach().to("cpu", copy=True) for n, t in state.items()}

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._count()

    def _count(self) -> None:
        if self._began is not None:
            now = time.monotonic()
            self.seconds += now - self._began
            self._began = now

    @override
    def state_dict(self) -> dict[str, Any]:
        self._count()
        return {name: getattr(self, name) for name in KEPT}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


def validation_loss(names: Iterable[str], asked: str | None) -> str | None:
    """Return which of the validation metrics is the loss.

    Args:
        names: What the module logs when it validates.
        asked: What the user named, if anything.

    Raises:
        ValueError: If the name asked for is not logged.
    """
    names = sorted(names)
    if asked is not None:
        if asked not in names:
            raise unknown("monitor", asked, names)
        return asked
    for kind in LOSSES:
        if losses := [name for name in names if kind in name.lower()]:
            return min(losses, key=len)
    if names:
        rank_zero_warn(
            "No validation metric is called a loss, so no early-stop step is found: set monitor to "
            f"one of {', '.join(names)} if it is one."
        )
    return None


def accuracy(metrics: Mapping[str, float], asked: str | None) -> float | None:
    """Return the accuracy among the metrics of a stage; None if nothing is called so.

    Args:
        metrics: What the module logged.
        asked: A part of the name that the user gave, if any.

    Raises:
        ValueError: If that is in none of the names.
    """
    part = (asked or "acc").lower()
    found = sorted((name for name in metrics if part in name.lower()), key=lambda n: (len(n), n))
    if asked and metrics and not found:
        raise unknown("accuracy", asked, metrics)
    return metrics[found[0]] if found else None
