"""Where in training a Trainer is, and how a new Trainer starts there."""

from __future__ import annotations

from typing import Any


def position(trainer: Any) -> dict[str, int]:
    """Return how many epochs, batches of the running epoch, batches and steps are trained."""
    loop = trainer.fit_loop.epoch_loop
    epochs, batches = trainer.fit_loop.epoch_progress.current, loop.batch_progress.current
    # Before the first batch of an epoch, the counters of the epoch before are still there.
    inside = epochs.started > epochs.processed and batches.ready > batches.completed
    return {
        "epoch": int(epochs.processed),
        "batches": int(batches.completed) if inside else 0,
        "all_batches": int(loop.batch_progress.total.completed),
        "steps": int(trainer.global_step),
        "logged": int(loop._batches_that_stepped),
    }


def go_to(trainer: Any, where: dict[str, int]) -> None:
    """Let a Trainer that has not trained yet begin at a position, as if it had trained until there.

    Epochs, steps, limits, schedules and logs count on from there.
    """
    fit, epochs = trainer.fit_loop, trainer.fit_loop.epoch_progress
    loop, batches = fit.epoch_loop, fit.epoch_loop.batch_progress
    for progress in (epochs.total, epochs.current):
        progress.ready = progress.started = where["epoch"] + bool(where["batches"])
        progress.processed = progress.completed = where["epoch"]
    for progress, done in (
        (batches.total, where["all_batches"]),
        (batches.current, where["batches"]),
    ):
        progress.ready = progress.started = progress.processed = progress.completed = done
    automatic = loop.automatic_optimization.optim_progress.optimizer.step.total
    for steps in (automatic, loop.manual_optimization.optim_step_progress.total):
        steps.ready = steps.completed = where["steps"]
    loop._batches_that_stepped = where["logged"]
    restarts(trainer, bool(where["batches"]))  # the running epoch goes on or starts anew


def restarts(trainer: Any, inside: bool) -> None:
    """Say whether training goes on inside an epoch; with max_steps, Lightning always says so."""
    trainer.fit_loop._restarting = trainer.fit_loop.epoch_loop.restarting = inside
