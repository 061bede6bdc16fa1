"""Where callbacks put their files: beside the logs of the same fit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any


def callback_folder(trainer: Any) -> Path:
    """Return the folder of this fit, the same on every rank; a throw-away one in a dry run."""
    if trainer.fast_dev_run:
        folder = tempfile.mkdtemp(prefix="ltpl-")
    else:
        folder = trainer.log_dir or trainer.default_root_dir
    return Path(trainer.strategy.broadcast(str(folder))).absolute()
