"""`Step`: a moment in training, written `10ep`, `500it` or `2ep50it`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ltpl.masks.errors import check_types, checked, shown

_WRITTEN = re.compile(r"(?:(\d+)ep)?(?:(\d+)it)?")


@dataclass(frozen=True)
class Step:
    """So many epochs and so many optimiser steps have been trained.

    Args:
        epoch: Epochs trained; None counts steps from the very start.
        iteration: Steps trained since then.

    Example:
        >>> Step.parse("2ep50it")
        Step(epoch=2, iteration=50)
        >>> str(Step.parse("500it"))
        '500it'
    """

    epoch: int | None = None
    iteration: int = 0

    def __post_init__(self) -> None:
        check_types(Step, vars(self))

    @classmethod
    @checked
    def parse(cls, text: str, option: str = "text") -> Step:
        """Read `10ep`, `500it` or `2ep50it`.

        Args:
            text: What is written.
            option: Where, for the message.

        Raises:
            ValueError: If it is written otherwise.
        """
        found = _WRITTEN.fullmatch(text)
        if not (text and found):
            raise ValueError(f"{option}={shown(text)} is not a step; write 10ep, 500it or 2ep50it.")
        epoch, iteration = found.groups()
        return cls(None if epoch is None else int(epoch), int(iteration or 0))

    def __str__(self) -> str:
        if self.epoch is None:
            return f"{self.iteration}it"
        return f"{self.epoch}ep" + (f"{self.iteration}it" if self.iteration else "")

    @property
    def is_start(self) -> bool:
        """Whether nothing has been trained yet."""
        return not self.epoch and not self.iteration
