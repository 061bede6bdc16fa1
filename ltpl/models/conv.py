"""Conv-2, Conv-4 and Conv-6, the small convolutional networks of the lottery ticket paper."""

from __future__ import annotations

from torch import Tensor, nn

from ltpl.models.initialise import undrawn
from ltpl.models.network import Network
from ltpl.models.options import below_one, one_of, whole, widened

DEPTHS = (2, 4, 6)


class ConvNet(Network):
    """Conv-2, Conv-4 or Conv-6: pairs of 3x3 convolutions, then 256 and 256 neurons, with ReLU.

    Frankle and Carbin (2019), section 3 and figure 2: a pair has 64, 128 or 256 kernels and a max
    pool; Gaussian Glorot weights, biases at zero. For images of 3x32x32 these layers have
    4,301,642, 2,425,930 and 2,262,602 parameters. The paper prints 4.3, 2.4 and 1.7 million; the
    last is not what its own layers give.

    Args:
        depth: Number of convolutions: 2, 4 or 6.
        dropout: Share of the inputs of the last two linear layers that is dropped in training, as
            after each hidden layer; the paper tries 0.5 (section 3), and does not say where.
        width: Factor on the number of kernels; the linear layers stay as they are.
        size: Height and width of the images.
        inputs: Channels of the image.
        outputs: Number of classes.
        init: How weights are drawn: glorot_normal, kaiming_normal, orthogonal or default.

    Raises:
        ValueError: If the depth or initialiser is unknown, or a number is out of range.

    Example:
        >>> sum(p.numel() for p in ConvNet(depth=6).parameters())
        2262602
    """

    def __init__(
        self,
        depth: int = 2,
        dropout: float = 0.0,
        width: float = 1.0,
        size: int = 32,
        inputs: int = 3,
        outputs: int = 10,
        init: str = "glorot_normal",
    ):
        super().__init__()
        self.init = init
        pairs = one_of("depth", depth, DEPTHS) // 2
        side = whole("size", size, least=2**pairs) // 2**pairs
        channels = whole("inputs", inputs)
        below_one("dropout", dropout)
        with undrawn(self):
            self.features = nn.Sequential()
            for kernels in widened(width, 64, 128, 256)[:pairs]:
                self.features.extend(
                    [
                        nn.Conv2d(channels, kernels, 3, padding=1),
                        nn.ReLU(),
                        nn.Conv2d(kernels, kernels, 3, padding=1),
                        nn.ReLU(),
                        nn.MaxPool2d(2),
                    ]
                )
                channels = kernels
            self.hidden = nn.Sequential(
                nn.Linear(channels * side**2, 256),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(256, 256),
                nn.ReLU(),
                nn.Dropout(dropout),
            )
            self.output = nn.Linear(256, whole("outputs", outputs))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.output(self.hidden(self.features(x).flatten(1)))
        return logits
