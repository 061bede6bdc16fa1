"""What the user sees while rounds run: bars and lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from typing_extensions import override

from ltpl.callbacks.namespace import Callback
from ltpl.report import alarm
from ltpl.report.console import plain
from ltpl.rounds.ranks import leads
from ltpl.tickets.result import Result


class Display(Callback):
    """Show rounds, the steps of the running one, and the time left.

    Args:
        title: What runs.
        rounds: How many rounds are left.
        last: The last level.
        quiet: Show nothing.
    """

    def __init__(self, title: str, rounds: int, last: int, quiet: bool = False):
        self.title = title
        self.rounds = rounds
        self.last = last
        self.finished = 0
        self.quiet = quiet or not leads()
        self.console = Console(file=sys.stdout, quiet=self.quiet, highlight=False, soft_wrap=True)
        self._bars: Progress | None = None
        self._all = self._steps = TaskID(0)
        self._began = 0.0
        self._drawn = 0.0

    @contextmanager
    def live(self) -> Iterator[Display]:
        """Show bars while the block runs, on a terminal."""
        self._began = time.monotonic()
        if not self.console.is_terminal or self.quiet:
            yield self
            return
        text, bar = TextColumn("{task.description}"), BarColumn(bar_width=24)
        count, note = MofNCompleteColumn(), TextColumn("{task.fields[note]}")
        with Progress(text, bar, count, note, console=self.console, transient=True) as self._bars:
            self._all = self._bars.add_task(f"{self.title}, rounds", total=self.rounds, note="")
            self._steps = self._bars.add_task("", total=None, note="", visible=False)
            yield self
        self._bars = None

    def line(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(plain(text), markup=False)

    def error(self, text: str) -> None:
        """Print a line to the standard error, unless nothing shall be shown."""
        if not self.quiet:
            print(plain(text), file=sys.stderr)

    def starts(self, seed: int, level: int, density: float, step: int) -> None:
        """Say which round begins, and whether it goes on from a checkpoint."""
        name = f"seed {seed} round {level}/{self.last}"
        if step:
            self.line(f"{name}: goes on from step {step:,}")
        if self._bars is not None:
            note = f"{100 * density:.3g} % of weights"
            self._bars.update(self._steps, description=name, visible=True, note=note, completed=0)

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._bars is not None:
            ends = trainer.estimated_stepping_batches
            total = None if math.isinf(ends) else int(ends)
            self._bars.update(self._steps, total=total, completed=trainer.global_step)

    @override
    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if self._bars is not None and time.monotonic() - self._drawn > 0.1:
            self._drawn = time.monotonic()
            self._bars.update(self._steps, completed=trainer.global_step)

    def ends(self, result: Result) -> None:
        """Print the line of a finished round and what is left."""
        self.finished += 1
        left = (time.monotonic() - self._began) / self.finished * (self.rounds - self.finished)
        until = f", {timedelta(seconds=round(left))} left" if self.finished < self.rounds else ""
        name = f"seed {result.seed} round {result.round:>{len(str(self.last))}}/{self.last}"
        weights = f"{100 * result.density:6.2f} % of weights"
        self.line(f"{name}: {weights}{_measured(result)}, {result.seconds:.1f} s{until}")
        if warning := alarm(result):
            self.line(warning)
        if self._bars is not None:
            note = f"{timedelta(seconds=round(left))} left"
            self._bars.update(self._all, completed=self.finished, note=note)


def _measured(result: Result) -> str:
    shown = ""
    for name, value in (("val", result.val_acc), ("test", result.test_acc)):
        if value is not None:
            share = 0 <= value <= 1
            shown += f", {name} {100 * value:.2f} %" if share else f", {name} {value:.4g}"
    if not shown and result.test:
        shown = "".join(f", {name} {value:.4g}" for name, value in list(result.test.items())[:1])
    if result.early_stop_step is not None:
        shown += f", early stop {result.early_stop_step:,}"
    return shown
