"""The LeNets of the pruning papers: LeNet-300-100 and LeNet-5."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from ltpl.models.initialise import undrawn
from ltpl.models.mlp import MLP
from ltpl.models.network import Network
from ltpl.models.options import one_of, whole

# kernels of the two convolutions, neurons of the hidden layers
VARIANTS = {"caffe": (20, 50, 500), "lecun": (6, 16, 120, 84)}


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


class LeNet5(Network):
    """Two 5x5 convolutions with max pools, then linear layers, for images of 28x28 pixels.

    `caffe` is what the pruning papers call LeNet-5 or LeNet-5-Caffe (Han et al., 2015, section 4.1;
    Lee et al., 2019, section 5): 20 and 50 kernels, 500 neurons, 431,080 parameters. As in Caffe's
    own `lenet.prototxt` ReLU follows the neurons only, not the convolutions. `lecun` has the
    widths of LeCun et al. (1998), section II.B: 6 and 16 kernels, 120 and 84 neurons, 61,706
    parameters; with today's max pools and ReLU, and all maps connected.

    Args:
        variant: `caffe` or `lecun`.
        inputs: Channels of the image.
        outputs: Number of classes.
        init: How weights are drawn: glorot_normal, kaiming_normal, orthogonal or default.

    Raises:
        ValueError: If the variant or initialiser is unknown, or a number is out of range.

    Example:
        >>> sum(p.numel() for p in LeNet5().parameters())
        431080
    """

    def __init__(
        self,
        variant: str = "caffe",
        inputs: int = 1,
        outputs: int = 10,
        init: str = "glorot_normal",
    ):
        super().__init__()
        self.init = init
        first, second, *hidden = VARIANTS[one_of("variant", variant, VARIANTS)]
        caffe = variant == "caffe"
        with undrawn(self):
            self.features = nn.Sequential(
                nn.Conv2d(whole("inputs", inputs), first, 5, padding=0 if caffe else 2),
                nn.Identity() if caffe else nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(first, second, 5),
                nn.Identity() if caffe else nn.ReLU(),
                nn.MaxPool2d(2),
            )
            side = 4 if caffe else 5
            widths = [second * side**2, *hidden]
            self.hidden = nn.Sequential()
            for fan_in, fan_out in itertools.pairwise(widths):
                self.hidden.extend([nn.Linear(fan_in, fan_out), nn.ReLU()])
            self.output = nn.Linear(widths[-1], whole("outputs", outputs))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.output(self.hidden(self.features(x).flatten(1)))
        return logits
