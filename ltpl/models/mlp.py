"""A multi-layer perceptron for vectors and small images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from ltpl.models.initialise import initialiser
from ltpl.models.network import Network
from ltpl.models.options import shown, whole


class MLP(Network):
    """Linear layers with ReLU between them.

    Args:
        inputs: Size of the flattened input.
        hidden: Width of each hidden layer.
        outputs: Number of classes.
        init: How weights are drawn: default, glorot_normal, kaiming_normal or orthogonal.

    Raises:
        ValueError: If the name of the initialiser is unknown, or a width is none.

    Example:
        >>> import torch
        >>> MLP(inputs=64, hidden=[32], outputs=10)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        inputs: int = 64,
        hidden: Sequence[int] = (300, 100),
        outputs: int = 10,
        init: str = "default",
    ):
        super().__init__()
        self.init = init
        drawn_already = initialiser(init) is None
        layers: list[nn.Module] = []
        if isinstance(hidden, str) or not isinstance(hidden, Sequence):
            raise ValueError(f"hidden={shown(hidden)}: a list of widths is wanted.")
        widths = [whole("inputs", inputs), *(whole("hidden", width) for width in hidden)]
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(widths[-1], whole("outputs", outputs))
        if not drawn_already:
            self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.output(self.hidden(x.flatten(1)))
        return logits
