"""`Finite`: the step at which a training went astray, and what it says of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.masks.files import whole_file

FILE = "diverged.json"
AT_ONCE = 50  # losses that are looked at together, where each look would wait for the device
PATIENCE = 50  # steps that a gradient scaler may take to find its scale


class Astray(FloatingPointError):
    """Replicates of a run went astray; all others are finished.

    Args:
        said: What is to be said of each round that did.
        missing: What is therefore not there, such as `reinit: seed 1 round 3`.
    """

    def __init__(self, said: list[str], missing: list[str]):
        super().__init__(said, missing)
        self.said = said
        self.missing = missing

    def __str__(self) -> str:
        went = f"{'; '.join(self.said)}. " if self.said else ""
        return f"{went}Missing: {'; '.join(self.missing)}."


def do_all(tasks: Iterable[Callable[[], object]]) -> None:
    """Do one after the other, also if replicates go astray in one of them.

    Raises:
        Astray: If any did, in any of them.
    """
    said: list[str] = []
    missing: list[str] = []
    for task in tasks:
        try:
            task()
        except Astray as astray:
            said += astray.said
            missing += astray.missing
    if missing:
        raise Astray(said, missing)


class Diverged(FloatingPointError):
    """A training went astray.

    Args:
        step: Optimiser steps taken when it was seen.
        what: What was seen.
        last: The last step with a finite loss, and that loss; None if there was none.
    """

    def __init__(self, step: int, what: str, last: tuple[int, float] | None = None):
        super().__init__(step, what, last)
        self.step = step
        self.what = what
        self.last = last

    def __str__(self) -> str:
        before = "no loss was finite before"
        if self.last is not None:
            before = f"the last finite loss was {self.last[1]:.6g} at step {self.last[0]:,}"
        return f"{self.what} at step {self.step:,}; {before}"

    def save(self, folder: Path) -> None:
        """Write it down beside what the round has left."""
        with whole_file(folder / FILE) as beside:
            beside.write_text(json.dumps({"step": self.step, "said": str(self)}, indent=1))


def diverged_before(folder: Path) -> str | None:
    """Return what was written down of a round that went astray; None if it did not."""
    try:
        return str(json.loads((folder / FILE).read_text())["said"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return f"{FILE} cannot be read"


class Finite:
    """Note the losses of training; look at them where that costs nothing.

    Args:
        patience: Steps in a row that may have no finite loss.
    """

    def __init__(self, patience: int = 0):
        self.patience = patience
        self.last: tuple[int, float] | None = None
        self._first_bad: tuple[int, float] | None = None
        self._in_a_row = 0
        self._noted: list[tuple[int, Tensor]] = []

    def note(self, step: int, outputs: Any) -> None:
        """Note the loss of a step, if the step returned one."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._noted.append((step, loss.detach().reshape(())))

    @property
    def is_due(self) -> bool:
        """Whether it is time to look: at once where that waits for no device."""
        return len(self._noted) >= (1 if self._noted and not self._noted[0][1].is_cuda else AT_ONCE)

    def look(self) -> Diverged | None:
        """Return what went wrong with the losses until now."""
        noted, self._noted = self._noted, []
        losses = [loss.float() for _, loss in noted]
        values = torch.stack(losses).tolist() if len(losses) > 1 else [float(x) for x in losses]
        for (step, _), value in zip(noted, values, strict=True):
            if math.isfinite(value):
                self.last, self._first_bad, self._in_a_row = (step, value), None, 0
                continue
            self._first_bad = self._first_bad or (step, value)
            self._in_a_row += 1
            if self._in_a_row > self.patience:
                step, value = self._first_bad
                return Diverged(step, f"the loss is {value}", self.last)
        return None

    def look_at_weights(self, step: int, module: nn.Module) -> Diverged | None:
        """Return what went wrong, also if only the weights know it yet."""
        if (found := self.look()) is not None:
            return found
        weights = [p.detach() for p in module.parameters() if p.is_floating_point()]
        sums = torch.stack([w.sum().double() for w in weights]) if weights else torch.zeros(1)
        if sums.isfinite().all() or all(w.isfinite().all() for w in weights):
            return None
        return Diverged(step, "weights are no longer finite", self.last)
