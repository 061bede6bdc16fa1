"""The residual networks of He et al. for small images: ResNet-20, 32, 44, 56, 110."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from ltpl.models.initialise import undrawn
from ltpl.models.network import Network
from ltpl.models.options import blocks, one_of, whole, widened

SHORTCUTS = ("A", "B")


class ResNet(Network):
    """ResNet-20, 32, 44, 56 or 110: blocks of two 3x3 convolutions with 16, 32 and 64 kernels.

    He et al. (2016), Deep residual learning, section 4.2: ReLU after the sum, a mean over the
    image, one linear layer. Where the number of channels doubles and the image halves, the
    shortcut is, as there, option A: every second pixel, with channels of zeros, half of them
    before and half behind (269,722 parameters for ResNet-20); or B: a 1x1 convolution with
    BatchNorm (272,474).

    Args:
        depth: Number of layers, 6n + 2.
        shortcut: `A` (without parameters) or `B` (a convolution).
        width: Factor on the number of kernels.
        inputs: Channels of the image.
        outputs: Number of classes.
        init: How weights are drawn: kaiming_normal, glorot_normal, orthogonal or default.
        gamma: Start of BatchNorm's scales: a number above 0, or `uniform` for draws in [0, 1).

    Raises:
        ValueError: If the depth does not fit, a name is unknown, or a number is out of range.

    Example:
        >>> sum(p.numel() for p in ResNet(depth=20).parameters())
        269722
    """

    def __init__(
        self,
        depth: int = 20,
        shortcut: str = "A",
        width: float = 1.0,
        inputs: int = 3,
        outputs: int = 10,
        init: str = "kaiming_normal",
        gamma: float | str = 1.0,
    ):
        super().__init__()
        self.init = init
        self.gamma = gamma
        length = blocks(depth, layers=6, others=2, usual="20, 32, 44, 56 or 110")
        one_of("shortcut", shortcut, SHORTCUTS)
        first, second, third = widened(width, 16, 32, 64)
        with undrawn(self):
            self.conv1 = nn.Conv2d(whole("inputs", inputs), first, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(first)
            self.layer1 = stage(first, first, length, 1, shortcut)
            self.layer2 = stage(first, second, length, 2, shortcut)
            self.layer3 = stage(second, third, length, 2, shortcut)
            self.output = nn.Linear(third, whole("outputs", outputs))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.output(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two 3x3 convolutions, and a way around them.

    Args:
        inputs: Channels before.
        outputs: Channels after.
        stride: 2 halves the image.
        shortcut: `A` or `B`, where channels or image change.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            kind = PaddedShortcut if shortcut == "A" else ConvolutionShortcut
            self.shortcut = kind(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        residual = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(residual + self.shortcut(x))


class PaddedShortcut(nn.Module):
    """Option A: every `stride`-th pixel, between as many channels of zeros as are wanted.

    Args:
        inputs: Channels before.
        outputs: Channels after.
        stride: 2 halves the image.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.behind = outputs - inputs - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the smaller image with more channels."""
        x = x[:, :, :: self.stride, :: self.stride]
        return pad(x, (0, 0, 0, 0, self.before, self.behind))


class ConvolutionShortcut(nn.Sequential):
    """Option B: a 1x1 convolution with BatchNorm.

    Args:
        inputs: Channels before.
        outputs: Channels after.
        stride: 2 halves the image.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def stage(inputs: int, outputs: int, length: int, stride: int, shortcut: str) -> nn.Sequential:
    """Return blocks in a row, of which the first changes channels and image."""
    first = Block(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(Block(outputs, outputs, 1, shortcut) for _ in range(length - 1)))
