"""`Around`: run something instead of a method of an unedited module, and put it back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class Around:
    """Stands for a method of an object until it is removed; several may nest.

    Args:
        target: The object; its class stays as it is.
        name: Name of the method.
        instead: What runs; it is handed the method, and what that was called with.
    """

    def __init__(self, target: Any, name: str, instead: Callable[..., Any]):
        self.target, self.name = target, name
        self.step = step = getattr(target, name)
        self.was_set = name in vars(target)  # as Lightning does with a compiled module
        self.acts = True

        @functools.wraps(step)
        def around(*args: Any, **kwargs: Any) -> Any:
            return instead(self.step, *args, **kwargs) if self.acts else self.step(*args, **kwargs)

        around.owner = self  # type: ignore[attr-defined]
        vars(target)[name] = around

    def remove(self) -> None:
        """Put back what was there; what somebody has wrapped around since stays."""
        self.acts = False
        outer = getattr(vars(self.target).get(self.name), "owner", None)
        if outer is self and self.was_set:
            vars(self.target)[self.name] = self.step
        elif outer is self:
            del vars(self.target)[self.name]
        while outer is not None and outer is not self:
            inner = getattr(outer.step, "owner", None)
            if inner is self:
                outer.step, outer.was_set = self.step, self.was_set
            outer = inner
