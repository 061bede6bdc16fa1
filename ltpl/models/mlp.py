"""A multi-layer perceptron for vectors and small images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        inputs: Size of the flattened input.
        hidden: Width of each hidden layer.
        outputs: Number of classes.

    Example:
        >>> sum(p.numel() for p in MLP(inputs=784).parameters())  # LeNet-300-100
        266610
    """

    output_layer = "output"

    def __init__(self, inputs: int = 64, hidden: Sequence[int] = (300, 100), outputs: int = 10):
        super().__init__()
        layers: list[nn.Module] = []
        widths = [inputs, *hidden]
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.output(self.hidden(x.flatten(1)))
        return logits
