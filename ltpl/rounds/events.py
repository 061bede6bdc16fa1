"""TensorBoard events of a round: what is logged, its config, its charts, and what came out."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from ltpl.callbacks.board import LAYOUT
from ltpl.rounds.ranks import leads
from ltpl.tickets.result import Result

EVENTS = "events.out.tfevents."
OUTCOMES = (
    *("val_acc", "test_acc", "start_acc", "pruned_acc"),
    *("early_stop_step", "epochs", "seconds"),
)


class _Events:
    """One file of events for validation, training and test; none of hyper-parameters."""

    def save(self) -> None:
        self.experiment.flush()  # type: ignore[attr-defined]

    def finalize(self, status: str) -> None:
        self.experiment.flush()  # type: ignore[attr-defined]


def events(package: str, folder: Path, from_step: int) -> Any:
    """Return a TensorBoard logger for a round.

    Args:
        package: `pytorch_lightning` or `lightning.pytorch`: whose Trainer it is for.
        folder: Folder of the round.
        from_step: What an interrupted run logged from here on is hidden: it is logged again.
    """
    goes_on = bool(from_step)
    if leads():
        _make_way(folder, goes_on)
    logger = importlib.import_module(f"{package}.loggers").TensorBoardLogger
    kind = type("Events", (_Events, logger), {})
    purge = {"purge_step": from_step} if from_step else {}
    seed, level = folder.parent, folder.name
    found = kind(seed.parent, name=seed.name, version=level, default_hp_metric=False, **purge)
    config = folder / "config.yaml"
    if leads() and not goes_on and config.is_file():
        code = "".join(f"    {line}\n" for line in config.read_text().splitlines())  # Markdown
        found.experiment.add_text("config", code, 0)
        found.experiment.add_custom_scalars(LAYOUT)
        found.save()
    return found


def conclude(logger: Any, result: Result, amount: float | None, step: int) -> None:
    """Write what came out, `final/...`, beside what it came from, for the table of all rounds.

    Every round has the same columns, because TensorBoard takes those of one round for all.

    Args:
        logger: What `events` returned.
        result: What was measured.
        amount: How much was pruned to get here.
        step: Where training ended.
    """
    from torch.utils.tensorboard.summary import hparams

    options = {
        "seed": result.seed,
        "round": result.round,
        "density": result.density,
        "amount": amount,
        "policy": str(result.made_by.get("policy", "")),
        "rewind": str(result.made_by.get("rewind", "")),
        "branch": result.branch or "main line",
    }
    for name in OUTCOMES:
        if (value := getattr(result, name)) is not None:
            logger.experiment.add_scalar(f"final/{name}", value, step)
    columns = dict.fromkeys(f"final/{name}" for name in OUTCOMES)
    for part in hparams(options, columns):  # type: ignore[no-untyped-call]
        logger.experiment._get_file_writer().add_summary(part, step)


def _make_way(folder: Path, goes_on: bool) -> None:
    """Remove the events of a round that begins anew; let those of one that goes on be the first.

    TensorBoard reads files by name, which begins with the time at which they were made; the clock
    may have been put back since, or show the same second.
    """
    files = sorted(folder.glob(f"{EVENTS}*"))
    if not goes_on:
        for file in files:
            file.unlink()
        return
    first = int(time.time()) - len(files)
    for number, file in enumerate(files):
        made, _, rest = file.name.removeprefix(EVENTS).partition(".")
        if made.isdigit() and int(made) > first + number:
            file.replace(folder / f"{EVENTS}{first + number:010}.{rest}")
