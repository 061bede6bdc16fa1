"""`Stop`: a signal asks a run to stop; it does so where nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """A signal ended the run.

    Args:
        number: Which signal.
        where: What the checkpoint holds, if one was written for it.
    """

    def __init__(self, number: int, where: str = ""):
        super().__init__(number, where)
        self.number = number
        self.where = where

    @property
    def name(self) -> str:
        """Name of the signal."""
        return signal.Signals(self.number).name


class Stop:
    """Hear SIGINT, SIGTERM and the signal by which SLURM announces that it takes the machine.

    While a network trains, a signal waits for the end of the step, so that it can be saved;
    anywhere else it acts at once, since files are whole there anyway.

    Args:
        speaks: Whether this process says what it does.
    """

    def __init__(self, speaks: bool = True):
        self.speaks = speaks
        self.number = 0
        self.waits = False
        self.requeue: int | None = None
        if "SLURM_JOB_ID" in os.environ and hasattr(signal, "SIGUSR1"):
            self.requeue = signal.SIGUSR1

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear signals while the block runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in self._numbers()}
        self.take()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def take(self) -> None:
        """Hear them again: a Trainer has handlers of its own, and loses a step by them."""
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers():
                signal.signal(number, self._heard)

    def _numbers(self) -> list[int]:
        numbers = [signal.SIGINT, signal.SIGTERM, self.requeue]
        return [number for number in numbers if number is not None]

    def asks_to_wait_for(self, trainer: Any) -> None:
        """Take the signal that a plugin of the Trainer names instead of SIGUSR1, if one does."""
        environment: Any = trainer._accelerator_connector.cluster_environment
        if hasattr(environment, "requeue_signal"):
            self.requeue = environment.requeue_signal if environment.auto_requeue else None

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.number = number
        if not self.waits:
            raise Stopped(number)
        if self.speaks:
            name = signal.Signals(number).name
            again = "; once more stops at once" if number == signal.SIGINT else ""
            print(f"{name}: stopping after this step, with a checkpoint{again}", file=sys.stderr)

    def requeued(self, stopped: Stopped) -> str:
        """Hand the job back to SLURM if that is what the signal asked for; say what came of it."""
        if stopped.number != self.requeue:
            return ""
        job = os.environ["SLURM_JOB_ID"]
        if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
            job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        try:
            subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = (getattr(error, "stderr", "") or str(error)).strip()
            return f"SLURM did not requeue job {job}: {reason}"
        return f"SLURM has requeued job {job}"
