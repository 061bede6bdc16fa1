"""LeNet-300-100, the fully connected network of the lottery ticket paper."""

from __future__ import annotations

from collections.abc import Sequence

from ltpl.models.mlp import MLP


class LeNet300(MLP):
    """Two hidden layers of 300 and 100 neurons with ReLU, for images of 28x28 pixels.

    LeCun et al. (1998), as used in Frankle and Carbin (2019), section 2: Gaussian Glorot weights,
    biases at zero.

    Args:
        inputs: Size of the flattened input.
        hidden: Width of each hidden layer.
        outputs: Number of classes.
        init: How weights are drawn: glorot_normal, kaiming_normal, orthogonal or default.

    Raises:
        ValueError: If the name of the initialiser is unknown.

    Example:
        >>> sum(p.numel() for p in LeNet300().parameters())
        266610
    """

    def __init__(
        self,
        inputs: int = 784,
        hidden: Sequence[int] = (300, 100),
        outputs: int = 10,
        init: str = "glorot_normal",
    ):
        super().__init__(inputs, hidden, outputs, init)
