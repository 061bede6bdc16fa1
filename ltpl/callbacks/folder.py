"""Where callbacks put their files: beside the logs of the same fit."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ltpl.callbacks.ranks import must_agree
from ltpl.masks.select import named_parameters
from ltpl.tickets.files import stored_digest
from ltpl.tickets.snapshot import Snapshot


def store(trainer: Any, snapshot: Snapshot, name: str, folder: str | None = None) -> str:
    """Write a snapshot once for all ranks and return where it is."""
    path = (Path(folder).absolute() if folder else callback_folder(trainer)) / name
    if trainer.is_global_zero:
        path = snapshot.save_beside(path)
    return str(trainer.strategy.broadcast(str(path)))


def must_be_there(trainer: Any, path: str | None) -> None:
    """Refuse a snapshot to rewind to that is gone, or is another for another process.

    Raises:
        FileNotFoundError: If it is gone.
        ValueError: If the processes do not have the same one.
    """
    must_agree(trainer, "RewindToEpoch", "the snapshot", lambda: stored_digest(path or ""))
    if path is not None and not Path(path).is_file():
        raise FileNotFoundError(
            f"RewindToEpoch: the checkpoint rewinds to {path}, which is not there. Put the file "
            "back, or start without ckpt_path."
        )


def stored_smaller(
    trainer: Any,
    pl_module: Any,
    path: str | None,
    found: Any,
    place: Any,
    folder: str | None = None,
) -> str | None:
    """Write what a snapshot says of the network after compaction; return where it is.

    Args:
        trainer: The Trainer.
        pl_module: Its module.
        path: The snapshot; None if there is none.
        found: What was removed.
        place: Where the network is.
        folder: Where the new file goes; beside the logs if not given.
    """
    if path is None:
        return None
    from ltpl.compaction.live import narrowed_snapshot  # it loads torch.export

    names = {parameter: name for name, parameter in named_parameters(pl_module).items()}
    orders = [
        [names.get(p, f"{i}") for i, p in enumerate(p for g in o.param_groups for p in g["params"])]
        for o in trainer.optimizers
    ]
    before = Snapshot.load(path)
    small = narrowed_snapshot(before, found, place.prefix, orders[: len(before.optimizers)])
    return store(trainer, small, Path(path).name, folder)


def callback_folder(trainer: Any) -> Path:
    """Return the folder of this fit, the same on every rank; a throw-away one in a dry run."""
    if trainer.fast_dev_run:
        folder = tempfile.mkdtemp(prefix="ltpl-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    else:
        folder = trainer.log_dir or trainer.default_root_dir
    if "://" in str(folder):
        raise ValueError(
            f"The logs go to {folder}, but snapshots need a local folder: give RewindToEpoch a "
            "dirpath, or the Trainer a local default_root_dir."
        )
    return Path(trainer.strategy.broadcast(str(folder))).absolute()
