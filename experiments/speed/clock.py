"""A callback that writes the seconds of each epoch: training alone, without validation."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback


class EpochClock(Callback):
    """Write the seconds of each epoch, from its start to the end of its last batch.

    Args:
        path: The JSON file.
    """

    def __init__(self, path: str):
        self.path = path
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *others: Any) -> None:
        if trainer.is_last_batch:
            self.seconds.append(time.perf_counter() - self._began)
            Path(self.path).write_text(json.dumps(self.seconds))
