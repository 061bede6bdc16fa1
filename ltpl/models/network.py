"""`Network`: what all networks here have in common."""

from __future__ import annotations

from torch import nn

from ltpl.models.initialise import initialise_


class Network(nn.Module):
    """A network that names its output layer and can be drawn anew.

    Attributes:
        output_layer: Where the last layer is, for `rates: {output: 0.5}`; a tuple if it has parts.
        init: How weights are drawn.
        gamma: Start of BatchNorm's scales.
    """

    output_layer: str | tuple[str, ...] = "output"
    init: str
    gamma: float | str = 1.0

    def reset_parameters(self) -> None:
        """Draw all weights anew, and start BatchNorm afresh."""
        initialise_(self, self.init, self.gamma)
