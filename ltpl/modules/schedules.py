"""The papers' learning-rate schedules: a linear warm-up, and drops at epochs or iterations."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ltpl.models.options import above_zero, below_one, shown, whole

Moment = int | str


class WarmupDrops(LRScheduler):
    """A learning rate that rises linearly at first and is multiplied by a factor at each drop.

    Moments are `"80ep"` (epochs; a plain number means the same) or `"32000it"` (iterations, which
    are optimiser steps); both may stand in one schedule. It counts steps, so the module that uses
    it steps it after each.

    Args:
        optimizer: The optimiser.
        drops: When the rate is multiplied by `factor`, such as 80ep and 120ep.
        factor: What it is multiplied by.
        warmup: How long the rate rises linearly.
        start: The share of the rate that the rise begins with: 0 in the lottery ticket paper.
        steps_per_epoch: Optimiser steps in an epoch; our modules fill it in.
        last_epoch: The last step; -1 for a new start.

    Raises:
        ValueError: If a moment cannot be read.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = WarmupDrops(sgd, drops=["6it"], warmup="4it")
        >>> [(sgd.step(), sgd.param_groups[0]["lr"], schedule.step())[1] for _ in range(7)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 0.1]
    """

    interval = "step"

    def __init__(
        self,
        optimizer: Optimizer,
        drops: Sequence[Moment] = (),
        factor: float = 0.1,
        warmup: Moment = 0,
        start: float = 0.0,
        steps_per_epoch: int | None = None,
        last_epoch: int = -1,
    ):
        if not isinstance(optimizer, Optimizer):
            raise ValueError(f"optimizer={shown(optimizer)}: an optimiser is wanted.")
        if isinstance(drops, str) or not isinstance(drops, Sequence):
            raise ValueError(f"drops={shown(drops)}: a list of moments is wanted.")
        self.drops = [_read("drops", each) for each in drops]
        self.warmup = _read("warmup", warmup)
        self.factor = above_zero("factor", factor)
        self.start = below_one("start", start)
        self.steps_per_epoch = (
            None if steps_per_epoch is None else whole("steps_per_epoch", steps_per_epoch)
        )
        super().__init__(optimizer, whole("last_epoch", last_epoch, least=-1))

    @property
    def counts_epochs(self) -> bool:
        """Whether a moment is given in epochs, so that `steps_per_epoch` matters."""
        return any(number and unit == "ep" for number, unit in [self.warmup, *self.drops])

    def in_epochs_of(self, steps: int) -> None:
        """Say how many optimiser steps an epoch has, and set the rates anew.

        Args:
            steps: Optimiser steps in an epoch.
        """
        self.steps_per_epoch = steps
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group."""
        return [rate * self._share(self.last_epoch) for rate in self.base_lrs]

    def _share(self, step: int) -> float:
        warmup = self._steps(self.warmup)
        rise = self.start + (1 - self.start) * step / warmup if step < warmup else 1.0
        return float(rise * self.factor ** sum(step >= self._steps(drop) for drop in self.drops))

    def _steps(self, moment: tuple[int, str]) -> int:
        number, unit = moment
        return number * (self.steps_per_epoch or 1) if unit == "ep" else number


def _read(name: str, moment: Moment) -> tuple[int, str]:
    written = isinstance(moment, (int, str)) and not isinstance(moment, bool)
    found = re.fullmatch(r"(\d{1,12})(ep|it)?", str(moment)) if written else None
    if found is None:
        raise ValueError(
            f"{name}={shown(moment)}: epochs such as '80ep' or iterations such as '32000it' are "
            "wanted."
        )
    return int(found[1]), found[2] or "ep"
