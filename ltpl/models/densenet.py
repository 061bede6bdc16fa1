"""Densely connected networks for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ltpl.models.initialise import undrawn
from ltpl.models.network import Network
from ltpl.models.options import blocks, whole

STEM = 16  # channels before the first layer


class DenseNet(Network):
    """DenseNet-40 or another depth: each layer adds a few channels to all that came before.

    Huang et al. (2017), section 3, without bottleneck and compression: BatchNorm, ReLU and a 3x3
    convolution a layer, three blocks of equal length, 1x1 convolutions and mean pools between
    them. The first convolution has 16 kernels, as in the paper, which gives 1,019,722 parameters;
    network slimming prints 1.02 million (Liu et al., 2017, table 1). Its later PyTorch code begins
    with 24, and has 1,059,298.

    Args:
        depth: Number of layers, 3n + 4.
        growth: Channels that a layer adds.
        inputs: Channels of the image.
        outputs: Number of classes.
        init: How weights are drawn: kaiming_normal, glorot_normal, orthogonal or default.
        gamma: Start of BatchNorm's scales: a number above 0 (0.5 in network slimming), or
            `uniform` for draws in [0, 1).

    Raises:
        ValueError: If the depth does not fit, the initialiser is unknown, or a number is out of
            range.

    Example:
        >>> sum(p.numel() for p in DenseNet(depth=40, growth=12).parameters())
        1019722
    """

    def __init__(
        self,
        depth: int = 40,
        growth: int = 12,
        inputs: int = 3,
        outputs: int = 10,
        init: str = "kaiming_normal",
        gamma: float | str = 1.0,
    ):
        super().__init__()
        self.init = init
        self.gamma = gamma
        length = blocks(depth, layers=3, others=4, usual="40 or 100")
        added = length * whole("growth", growth)
        with undrawn(self):
            self.conv = nn.Conv2d(whole("inputs", inputs), STEM, 3, padding=1, bias=False)
            self.dense1 = dense(STEM, growth, length)
            self.transition1 = transition(STEM + added)
            self.dense2 = dense(STEM + added, growth, length)
            self.transition2 = transition(STEM + 2 * added)
            self.dense3 = dense(STEM + 2 * added, growth, length)
            self.bn = nn.BatchNorm2d(STEM + 3 * added)
            self.output = nn.Linear(STEM + 3 * added, whole("outputs", outputs))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.transition1(self.dense1(self.conv(x)))
        x = self.dense3(self.transition2(self.dense2(x)))
        logits: Tensor = self.output(relu(self.bn(x)).mean((2, 3)))
        return logits


class Layer(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, whose output is put behind its input.

    Args:
        inputs: Channels before.
        growth: Channels that are added.
    """

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return all channels until here."""
        return torch.cat([x, self.conv(relu(self.bn(x)))], dim=1)


def dense(inputs: int, growth: int, length: int) -> nn.Sequential:
    """Return a block: layers in a row."""
    return nn.Sequential(*(Layer(inputs + i * growth, growth) for i in range(length)))


def transition(channels: int) -> nn.Sequential:
    """Return what lies between two blocks and halves the image."""
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.AvgPool2d(2),
    )
