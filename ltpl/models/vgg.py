"""VGG with BatchNorm, for small images."""

from __future__ import annotations

from torch import Tensor, nn

from ltpl.models.initialise import undrawn
from ltpl.models.network import Network
from ltpl.models.options import one_of, whole, widened

# convolutions between two pools
PLANS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(Network):
    """VGG-11, 13, 16 or 19 with BatchNorm and a single linear layer, for images of 32x32 pixels.

    Simonyan and Zisserman (2015), table 1, as cut down for CIFAR in Liu et al. (2017), section 4.2,
    and Frankle and Carbin (2019), section 4: 3x3 convolutions without bias, four max pools, the
    mean over what is left of the image, 512 features. VGG-16 has 14.72 and VGG-19 20.04 million
    parameters.

    Args:
        depth: Number of layers, counted with the three linear ones of the original: 11, 13, 16, 19.
        width: Factor on the number of kernels.
        inputs: Channels of the image, which has 16x16 pixels or more.
        outputs: Number of classes.
        init: How weights are drawn: kaiming_normal, glorot_normal, orthogonal or default.
        gamma: Start of BatchNorm's scales: a number above 0 (0.5 in Liu et al., 2017), or
            `uniform` for draws in [0, 1).

    Raises:
        ValueError: If the depth or initialiser is unknown, or a number is out of range.

    Example:
        >>> sum(p.numel() for p in VGG(depth=16).parameters())
        14724042
    """

    def __init__(
        self,
        depth: int = 16,
        width: float = 1.0,
        inputs: int = 3,
        outputs: int = 10,
        init: str = "kaiming_normal",
        gamma: float | str = 1.0,
    ):
        super().__init__()
        self.init = init
        self.gamma = gamma
        plan = PLANS[one_of("depth", depth, PLANS)]
        channels = whole("inputs", inputs)
        with undrawn(self):
            self.features = nn.Sequential()
            for kernels, convolutions in zip(
                widened(width, 64, 128, 256, 512, 512), plan, strict=True
            ):
                if len(self.features) > 0:
                    self.features.append(nn.MaxPool2d(2))
                for _ in range(convolutions):
                    convolution = nn.Conv2d(channels, kernels, 3, padding=1, bias=False)
                    self.features.extend([convolution, nn.BatchNorm2d(kernels), nn.ReLU()])
                    channels = kernels
            self.output = nn.Linear(channels, whole("outputs", outputs))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.output(self.features(x).mean((2, 3)))
        return logits
