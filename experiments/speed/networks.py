"""The two networks whose steps are timed, and the LightningModule around them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer


class Classifier(pl.LightningModule):
    """Cross-entropy, and the loss logged in every step: the least that a project does.

    Args:
        network: The network.
        optimizer: Makes the optimiser from the parameters.
    """

    def __init__(self, network: nn.Module, optimizer: Callable[..., Optimizer]):
        super().__init__()
        self.network = network
        self.optimizer = optimizer

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self.network(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.parameters())


def lenet() -> nn.Module:
    """LeNet-300-100 of Frankle and Carbin (2019): 266,200 weights in three matrices."""
    hidden = [nn.Flatten()]
    for inputs, outputs in pairwise((784, 300, 100)):
        hidden += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(100, 10))


def resnet20() -> nn.Module:
    """ResNet-20 of He et al. (2016, section 4.2) for CIFAR: 3 stages of 3 blocks, 16/32/64."""
    layers: list[nn.Module] = [*_convolution(3, 16, 1), nn.ReLU()]
    width = 16
    for outputs in (16, 32, 64):
        for _ in range(3):
            layers.append(Block(width, outputs))
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Block(nn.Module):
    """Two 3x3 convolutions and a way around them, by 1x1 convolution where the width changes."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.body = nn.Sequential(
            *_convolution(inputs, outputs, stride), nn.ReLU(), *_convolution(outputs, outputs, 1)
        )
        self.way = nn.Sequential()
        if inputs != outputs:
            narrow = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.way = nn.Sequential(narrow, nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.body(images) + self.way(images))


def _convolution(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    )
