"""`Network`: what all networks here have in common."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from ltpl.models.initialise import initialise_


class Network(nn.Module):
    """A network that names its output layer and can be drawn anew.

    Attributes:
        output_layer: Where the last layer is, for `rates: {output: 0.5}`; a tuple if it has parts.
        init: How weights are drawn.
        gamma: Start of BatchNorm's scales.
        arguments: What it was made with, so that another like it can be.
    """

    output_layer: str | tuple[str, ...] = "output"
    init: str
    gamma: float | str = 1.0
    arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Network:
        """Keep the arguments."""
        self = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs).arguments
        object.__setattr__(self, "arguments", dict(list(given.items())[1:]))
        return self

    def reset_parameters(self) -> None:
        """Draw all weights anew, and start BatchNorm afresh."""
        initialise_(self, self.init, self.gamma)
