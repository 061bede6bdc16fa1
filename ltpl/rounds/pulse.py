"""`Pulse`: about once a second, all processes agree whether training goes on."""

from __future__ import annotations

import time
from typing import Any

from ltpl.rounds.finite import PATIENCE, Diverged, Finite
from ltpl.rounds.ranks import largest, of_each
from ltpl.rounds.stop import Stop, Stopped

SECONDS = 1.0  # between two agreements of several processes
MOST = 100  # steps between them


class Pulse:
    """Whether training goes on: no signal has come, and losses are finite.

    Args:
        stop: Hears signals.
    """

    def __init__(self, stop: Stop):
        self.stop = stop
        self.finite = Finite()
        self._agreed = 0
        self._steps, self._until = 0, 1
        self._since = time.monotonic()

    def begins(self, trainer: Any) -> None:
        """Hear signals while this Trainer trains."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.finite.patience = PATIENCE if scaler is not None else 0
        self.stop.asks_to_wait_for(trainer)
        self.stop.take()
        self.stop.waits = True

    def ends(self) -> None:
        """Let signals act at once again."""
        self.stop.waits = False

    def stops(self, trainer: Any, now: bool = False) -> bool:
        """Whether training shall stop: asked after every step, answered alike in all processes.

        Args:
            trainer: The Trainer.
            now: Whether all processes are to agree now, not when it is due.

        Raises:
            Diverged: If losses are no longer finite; in every process.
        """
        if trainer.world_size == 1:
            if (now or self.finite.is_due) and (found := self.finite.look()):
                raise found
            return bool(self.stop.number)
        self._steps += 1
        if now or self._steps >= self._until:
            self._agree(trainer)
        return bool(self._agreed)

    def must_be_finite(self, trainer: Any, module: Any) -> None:
        """Raise before weights are stored that are none.

        Raises:
            Diverged: In every process.
        """
        found = self.finite.look_at_weights(trainer.global_step, module)
        if any(largest([found is not None], trainer.strategy.root_device)):
            _raise_earliest(found)

    def _agree(self, trainer: Any) -> None:
        found = self.finite.look()
        pace = (time.monotonic() - self._since) / self._steps if self._steps else SECONDS
        until = min(max(SECONDS / pace, 1), MOST)
        wanted = [self.stop.number, found is not None, until]
        number, astray, until = largest(wanted, trainer.strategy.root_device)
        if astray:
            _raise_earliest(found)
        self._agreed = self.stop.number = int(number)
        self._steps, self._until, self._since = 0, int(until), time.monotonic()

    def leave(self, step: int) -> None:
        """End the run; the checkpoint that was just written holds all."""
        self.ends()
        raise Stopped(self.stop.number, f"step {step:,}")


def _raise_earliest(found: Diverged | None) -> None:
    everywhere = [each for each in of_each(found and found.args) if each]
    raise Diverged(*min(everywhere, key=lambda each: each[0]))
