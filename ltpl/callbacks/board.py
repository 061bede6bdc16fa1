"""What TensorBoard takes besides numbers: which loggers draw, on which axis, in which charts."""

from __future__ import annotations

from typing import Any

# Tags are regular expressions from their beginning; each chart overlays all runs.
LAYOUT = {
    "training": {
        "accuracy": ["Multiline", ["val.*acc", "train.*acc"]],
        "loss": ["Multiline", ["val.*loss", "train.*loss"]],
    },
    "tickets": {
        "density by layer": ["Multiline", ["ticket/layers/"]],
        "accuracy against weights pruned, per mille": ["Multiline", ["pruned_permille/.*acc"]],
        "early stop against weights pruned": ["Multiline", ["pruned_permille/early_stop_step"]],
    },
}


def boards(trainer: Any) -> list[Any]:
    """Return the loggers that take pictures, on the process that writes; all others are left alone.

    Args:
        trainer: The Trainer.
    """
    if not trainer.is_global_zero or trainer.fast_dev_run:
        return []
    return [logger for logger in trainer.loggers if _draws(logger)]


def _draws(logger: Any) -> bool:
    return callable(getattr(getattr(logger, "experiment", None), "add_image", None))


def log_step(trainer: Any) -> int:
    """Return where Lightning puts what is logged now: at the batches that stepped until here.

    With several optimisers, `global_step` counts each of their steps.
    """
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def write(trainer: Any, values: dict[str, float]) -> None:
    """Hand numbers to every logger, where no `self.log` can do it."""
    for logger in trainer.loggers if values else ():
        logger.log_metrics(values, step=log_step(trainer))
