"""`MidRound`: the one checkpoint that an interrupted round goes on from."""

from __future__ import annotations

import os
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from ltpl.callbacks.board import log_step
from ltpl.callbacks.namespace import Checkpoint
from ltpl.callbacks.position import restarts
from ltpl.rounds.pulse import Pulse

SHARE = 0.02  # of the training time may go into checkpoints at epoch ends


class MidRound(Checkpoint):
    """Save `last.ckpt` at epoch ends, and every n steps if asked to; whole or not at all.

    Where epochs take milliseconds, some are left out, so that saving stays a small share of the
    time: what is lost by a kill is short too. A signal that asks to stop loses nothing.

    Args:
        path: The file.
        pulse: Says whether training goes on.
        every_n_steps: Save after so many optimiser steps as well.
    """

    def __init__(self, path: Path, pulse: Pulse, every_n_steps: int | None = None):
        self.path = path
        self.pulse = pulse
        self.every_n_steps = every_n_steps
        self._stopped = False
        self._saving = False
        self._last_step = self._next_row = 0
        self._after_validation = False
        self._plateaus: list[float | None] = []
        self._saved_at = time.monotonic()
        self._cost = 0.0

    @override
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._saved_at = time.monotonic()
        trainer.should_stop |= self._stopped  # Lightning forgets it
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        fit, epochs = trainer.fit_loop, trainer.fit_loop.epoch_progress
        if fit.restarting and epochs.current.processed == epochs.current.started:
            # an epoch's end, which Lightning counts twice where max_steps is set
            for progress in (epochs.total, epochs.current):
                progress.completed = progress.processed
            restarts(trainer, inside=False)
            fit.reset_restart_stage()
            fit.epoch_loop.reset_restart_stage()
        self._last_step = trainer.global_step
        self.pulse.begins(trainer)
        # Lightning never steps the plateau schedules of the epoch that it resumes after.
        for config, value in zip(_plateaus(trainer), self._plateaus, strict=False):
            if value is not None:
                config.scheduler.step(value)
        self._plateaus = []

    @override
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop, step = trainer.fit_loop.epoch_loop, trainer.global_step
        stepped, self._last_step = step > self._last_step, step
        self.pulse.finite.note(step, outputs)
        stops = self.pulse.stops(trainer)
        due = stops or (self.every_n_steps and not step % self.every_n_steps)
        last = loop.batch_progress.is_last_batch  # its epoch end follows
        if not due or not stepped or last:
            return
        self._after_validation = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        if not self._after_validation:
            self._save(trainer, stops, inside=True)

    @override
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.pulse.stop.take()

    @override
    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self.pulse.stop.take()

    @override
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self._after_validation:
            self._after_validation = False
            self._save(trainer, self.pulse.stops(trainer, now=True), inside=True)

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        stops = self.pulse.stops(trainer, now=True)
        passed = time.monotonic() - self._saved_at
        if stops or trainer.strategy.broadcast(passed * SHARE >= self._cost):
            found = trainer.callback_metrics
            monitored = [found.get(config.monitor) for config in _plateaus(trainer)]
            self._plateaus = [None if value is None else float(value) for value in monitored]
            self._save(trainer, stops)
            self._plateaus = []

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.pulse.must_be_finite(trainer, pl_module)
        self.pulse.ends()

    @override
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.pulse.ends()

    def _save(self, trainer: Any, leave: bool, inside: bool = False) -> None:
        self._next_row = log_step(trainer) + inside  # Lightning counts when the batch has ended
        if not trainer.fast_dev_run:
            self._write(trainer)
        if leave:
            self.pulse.leave(trainer.global_step)

    def _write(self, trainer: Any) -> None:
        self.pulse.must_be_finite(trainer, trainer.lightning_module)
        began = time.monotonic()
        beside = self.path.with_name(f".{self.path.name}.part")
        self._saving, self._stopped = True, bool(trainer.should_stop)
        try:
            trainer.save_checkpoint(beside)
            if trainer.is_global_zero:
                with beside.open("rb") as written:
                    os.fsync(written.fileno())
                beside.replace(self.path)
        finally:
            self._saving = False
            if trainer.is_global_zero:
                beside.unlink(missing_ok=True)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - began

    @override
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self._saving:  # a round is built from its config; objects in there could not be loaded
            for key in [key for key in checkpoint if "hyper_parameters" in key]:
                del checkpoint[key]

    @override
    def state_dict(self) -> dict[str, Any]:
        row = self._next_row if self._saving else None
        return {"stopped": self._stopped, "plateaus": self._plateaus, "next_row": row}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._stopped, self._plateaus = state_dict["stopped"], state_dict["plateaus"]


def _plateaus(trainer: Any) -> list[Any]:
    """Return the schedules that follow a metric and are due at the end of this epoch."""
    trained = trainer.fit_loop.epoch_progress.current.processed
    return [
        config
        for config in trainer.lr_scheduler_configs
        if config.reduce_on_plateau
        and config.interval == "epoch"
        and trained % config.frequency == 0
    ]


def newest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """Return the checkpoint that a round goes on from, and its step; None: from the beginning.

    Beside ours, there is the one that Lightning writes when SLURM takes the machine away. What has
    trained longer is newer, whatever the clock said. A damaged file is passed over.
    """
    whole: list[tuple[Path, int]] = []
    for path in [*folder.glob("checkpoints/last.ckpt"), *folder.glob("hpc_ckpt_*.ckpt")]:
        try:
            _must_be_whole(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            whole.append((path, int(content["global_step"])))
        except Exception as error:  # whatever a damaged file makes torch say
            warnings.warn(
                f"{path} cannot be read ({type(error).__name__}): passed over.", stacklevel=2
            )
    return max(whole, key=lambda found: found[1], default=None)


def logged_before(checkpoint: Path) -> int:
    """Return the step at which the next metrics are logged; several optimisers share one."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    try:
        row = content["callbacks"][MidRound.__name__]["next_row"]
    except (KeyError, TypeError):  # not one of ours
        row = None
    return row if isinstance(row, int) else int(content["global_step"])


def _must_be_whole(path: Path) -> None:
    """Compare all of a checkpoint with the checksums in it, as torch does not."""
    with zipfile.ZipFile(path) as file:
        if damaged := file.testzip():
            raise zipfile.BadZipFile(damaged)
