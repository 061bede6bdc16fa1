"""A Trainer that spends its time on training: what Lightning does beside, where it need not.

On a small network these cost as much as the training step itself (`experiments/speed`). What the
user gives instead is used.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from typing import Any

import torch

REDRAWN = 0.1  # seconds between two pictures of the progress bar
NOTHING = contextlib.nullcontext()


def brisk(package: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a Trainer, with a profiler and a progress bar that cost next to nothing.

    Args:
        package: Whose Trainer it is: `pytorch_lightning` or `lightning.pytorch`.
        options: The options as they were given.
    """
    if not torch.cuda.is_available():
        # Lightning has torch ask the driver whether there is a GPU; the optimiser asks each step.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    found = dict(options)
    if options.get("barebones"):
        return found
    if options.get("profiler") is None:
        found["profiler"] = _no_profiler(package)
    if options.get("enable_progress_bar") is not False:
        callbacks = options.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        kinds = importlib.import_module(f"{package}.callbacks")
        if not any(isinstance(each, kinds.ProgressBar) for each in callbacks):
            found["callbacks"] = [*callbacks, _progress_bar(kinds.RichProgressBar)]
    return found


def _no_profiler(package: str) -> Any:
    """Return a profiler of no actions: thirty a step, for which Lightning's enters a generator."""
    kind = importlib.import_module(f"{package}.profilers").PassThroughProfiler
    return type("NoProfiler", (kind,), {"profile": lambda self, action: NOTHING})()


def _progress_bar(kind: Any) -> Any:
    """Return Lightning's progress bar, drawn when there is something to see, not every step."""

    class ProgressBar(kind):  # type: ignore[misc]
        _drawn = 0.0

        def on_train_batch_end(self, trainer: Any, *others: Any) -> None:
            if trainer.is_last_batch or time.monotonic() - self._drawn > REDRAWN:
                self._drawn = time.monotonic()
                super().on_train_batch_end(trainer, *others)

    return ProgressBar(refresh_rate=round(1 / REDRAWN))
