"""Residual networks that normalise before they convolve, for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from ltpl.models.initialise import undrawn
from ltpl.models.network import Network
from ltpl.models.options import blocks, one_of, whole, widened


class PreResNet(Network):
    """PreResNet-164 or another depth: BatchNorm and ReLU before each convolution, none after a sum.

    He et al. (2016), Identity mappings, section 4; depth 164 in Liu et al. (2017), network
    slimming, and 101 in You et al. (2020), early-bird tickets. Where the shape changes, the
    shortcut is a 1x1 convolution without BatchNorm of the block's raw input, and the output is
    normalised before the mean over the image, both as in the code of network slimming.

    That code's `resnet(depth=20)` is `PreResNet(20)`: two bottlenecks a stage, 1,360 BatchNorm
    channels, 219,482 parameters (220,394 there, as it stores 912 indices of channels as parameters
    too). It is not He's ResNet-20, which is `ResNet(20)`, with 688 and 269,722.

    Args:
        depth: Number of layers: 9n + 2 with bottlenecks, 6n + 2 with basic blocks.
        block: `bottleneck` (convolutions of 1x1, 3x3 and 1x1, the last with four times as many
            kernels) or `basic` (two of 3x3).
        width: Factor on the number of kernels, which is 16, 32 and 64.
        inputs: Channels of the image.
        outputs: Number of classes.
        init: How weights are drawn: kaiming_normal, glorot_normal, orthogonal or default.
        gamma: Start of BatchNorm's scales: a number above 0 (0.5 in Liu et al., 2017), or
            `uniform` for draws in [0, 1).

    Raises:
        ValueError: If the depth does not fit, a name is unknown, or a number is out of range.

    Example:
        >>> sum(p.numel() for p in PreResNet(depth=164).parameters())
        1703258
    """

    def __init__(
        self,
        depth: int = 164,
        block: str = "bottleneck",
        width: float = 1.0,
        inputs: int = 3,
        outputs: int = 10,
        init: str = "kaiming_normal",
        gamma: float | str = 1.0,
    ):
        super().__init__()
        self.init = init
        self.gamma = gamma
        kind = BLOCKS[one_of("block", block, BLOCKS)]
        length = blocks(depth, 3 * kind.layers, others=2, usual=kind.usual)
        planes = widened(width, 16, 32, 64)
        first, second, third = (number * kind.expansion for number in planes)
        with undrawn(self):
            self.conv1 = nn.Conv2d(whole("inputs", inputs), planes[0], 3, padding=1, bias=False)
            self.layer1 = stage(kind, planes[0], planes[0], length, 1)
            self.layer2 = stage(kind, first, planes[1], length, 2)
            self.layer3 = stage(kind, second, planes[2], length, 2)
            self.bn = nn.BatchNorm2d(third)
            self.output = nn.Linear(third, whole("outputs", outputs))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.output(relu(self.bn(x)).mean((2, 3)))
        return logits


class Basic(nn.Module):
    """Two 3x3 convolutions, and a way around them.

    Args:
        inputs: Channels before.
        planes: Kernels of each convolution, and channels after.
        stride: 2 halves the image.
    """

    layers, expansion, usual = 2, 1, "20, 32, 56 or 110"

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut = projection(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        residual = self.conv1(relu(self.bn1(x)))
        residual = self.conv2(relu(self.bn2(residual)))
        output: Tensor = residual + self.shortcut(x)
        return output


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1, and a way around them.

    Args:
        inputs: Channels before.
        planes: Kernels of the first two, a fourth of the channels after.
        stride: 2 halves the image.
    """

    layers, expansion, usual = 3, 4, "20, 29, 101 or 164"

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        outputs = planes * self.expansion
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        residual = self.conv1(relu(self.bn1(x)))
        residual = self.conv2(relu(self.bn2(residual)))
        residual = self.conv3(relu(self.bn3(residual)))
        output: Tensor = residual + self.shortcut(x)
        return output


BLOCKS: dict[str, type[Basic] | type[Bottleneck]] = {"bottleneck": Bottleneck, "basic": Basic}


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return the shortcut: a 1x1 convolution where the shape changes, nothing elsewhere."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def stage(
    kind: type[Basic] | type[Bottleneck], inputs: int, planes: int, length: int, stride: int
) -> nn.Sequential:
    """Return blocks in a row, of which the first changes channels and image."""
    outputs = planes * kind.expansion
    first = kind(inputs, planes, stride)
    return nn.Sequential(first, *(kind(outputs, planes, 1) for _ in range(length - 1)))
