"""Networks that people prune, small enough for a test, each with an example of its input."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.models as vision
from torch import Tensor, nn

import ltpl.models as ours

with warnings.catch_warnings():  # it compiles with what torch deprecates
    warnings.simplefilter("ignore", FutureWarning)
    import torch_geometric.nn as graphs


def image(batch: int = 2, channels: int = 3, side: int = 32) -> tuple[Tensor]:
    return (torch.randn(batch, channels, side, side),)


def nodes() -> tuple[Tensor, Tensor]:
    return torch.randn(20, 6), torch.randint(20, (2, 60))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.mid = self.block(3, 8), self.block(8, 16), self.block(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.dec2, self.dec1, self.out = self.block(32, 16), self.block(16, 8), nn.Conv2d(8, 2, 1)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Sequential:
        layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.up2(self.mid(F.max_pool2d(two, 2)))
        x = self.up1(self.dec2(torch.cat([x, two], 1)))
        return self.out(self.dec1(torch.cat([x, one], 1)))


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Shortcut(nn.Module):
    """A residual block that widens; the way around is a function without weights."""

    def __init__(self, around: Callable[[Tensor], Tensor]):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16)
        self.around, self.head = Lambda(around), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm0(self.stem(x)).relu()
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return self.head((y + self.around(x)).relu().mean((2, 3)))


class Reads(nn.Module):
    """Two convolutions, then a linear layer that reads them in its own order."""

    def __init__(self, order: Callable[[Tensor], Tensor], width: int = 256):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.order, self.linear = order, nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu()
        return self.linear(self.order(x))


class Tied(nn.Module):
    """Encoder and decoder of one weight."""

    def __init__(self, functional: bool):
        super().__init__()
        self.encoder, self.norm = nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16)
        self.middle, self.again = nn.Linear(16, 16), nn.BatchNorm1d(16)
        if functional:
            self.decoder: Any = None
        else:
            self.second = nn.Linear(16, 16)
            self.second.weight = self.middle.weight
            self.decoder = self.second

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.encoder(x)).relu()
        h = self.again(self.middle(h)).relu()
        if self.decoder is not None:
            h = self.decoder(h).relu()
        return F.linear(h, self.encoder.weight.t())


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.next, self.after = nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.next(F.glu(self.norm(self.conv(x)), 1)))
        value, gate = x.chunk(2, 1)
        return self.head((value * gate.sigmoid()).mean((2, 3)))


class Upscaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.wide, self.inner, self.out = (
            nn.Conv2d(16, 16, 3),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 1, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(self.norm(self.conv(x)).relu())
        return self.out(self.inner(F.pixel_shuffle(x, 2)).relu())


class Messages(nn.Module):
    """Three convolutions of a graph, with BatchNorm between."""

    def __init__(self, make: Callable[[int, int], nn.Module]):
        super().__init__()
        self.conv1, self.norm1 = make(6, 8), nn.BatchNorm1d(8)
        self.conv2, self.norm2 = make(8, 12), nn.BatchNorm1d(12)
        self.conv3 = make(12, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x, edges)).relu()
        x = self.norm2(self.conv2(x, edges)).relu()
        return self.conv3(x, edges)


def gin(inputs: int, outputs: int) -> nn.Module:
    layers = [nn.Linear(inputs, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, outputs)]
    return graphs.GINConv(nn.Sequential(*layers), train_eps=True)


def vgg() -> nn.Module:
    net = vision.vgg16_bn(num_classes=10)
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))
    return net


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16),
        nn.GELU(), nn.Linear(16, 3),
    )  # fmt: skip


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(nn.Linear(8, 16), layer, nn.Linear(16, 3))


def lambda_a(x: Tensor) -> Tensor:
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0)


def cat_a(x: Tensor) -> Tensor:
    x = F.avg_pool2d(x, 2)
    return torch.cat([x, torch.zeros_like(x)], 1)


def permuted(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1)


def hard_coded(x: Tensor) -> Tensor:
    return x.view(-1, 16 * 4 * 4)


Made = tuple[nn.Module, tuple[Any, ...]]
ARCHITECTURES: dict[str, Callable[[], Made]] = {
    "ResNet-20 A": lambda: (ours.ResNet(20, shortcut="A"), image()),
    "ResNet-20 B": lambda: (ours.ResNet(20, shortcut="B"), image()),
    "PreResNet-20": lambda: (ours.PreResNet(20), image()),
    "ResNet-18": lambda: (vision.resnet18(), image()),
    "ResNet-50": lambda: (vision.resnet50(), image()),
    "VGG-16-bn": lambda: (vgg(), image()),
    "DenseNet-121": lambda: (vision.densenet121(), image()),
    "DenseNet-40": lambda: (ours.DenseNet(depth=40), image()),
    "MobileNetV2": lambda: (vision.mobilenet_v2(), image()),
    "EfficientNet-B0": lambda: (vision.efficientnet_b0(), image()),
    "ResNeXt-50": lambda: (vision.resnext50_32x4d(), image()),
    "ShuffleNetV2": lambda: (vision.shufflenet_v2_x1_0(), image()),
    "U-Net": lambda: (UNet(), image(side=16)),
    "LeNet-300": lambda: (ours.LeNet300(), image(channels=1, side=28)),
    "LeNet-5": lambda: (ours.LeNet5(), image(channels=1, side=28)),
    "MLP": lambda: (mlp(), (torch.randn(4, 8),)),
    "tied modules": lambda: (Tied(False), (torch.randn(4, 8),)),
    "tied by a function": lambda: (Tied(True), (torch.randn(4, 8),)),
    "GLU": lambda: (Gated(), image(side=8)),
    "pixel shuffle": lambda: (Upscaled(), image(side=8)),
    "GCN": lambda: (Messages(graphs.GCNConv), nodes()),
    "SAGE": lambda: (Messages(graphs.SAGEConv), nodes()),
    "GAT": lambda: (Messages(lambda i, o: graphs.GATConv(i, o // 2, heads=2)), nodes()),
    "GIN": lambda: (Messages(gin), nodes()),
    "our GCN": lambda: (ours.GCN(inputs=6, outputs=3), nodes()),
    "our GAT": lambda: (ours.GAT(inputs=6, outputs=3), nodes()),
    "our GIN": lambda: (ours.GIN(inputs=6, outputs=3), nodes()),
    "our GraphSAGE": lambda: (ours.GraphSAGE(inputs=6, outputs=3), nodes()),
    "view of a number": lambda: (Reads(hard_coded), image(side=16)),
    "permute, then flatten": lambda: (Reads(permuted), image(side=16)),
    "option A, lambda": lambda: (Shortcut(lambda_a), image(side=8)),
    "option A, cat": lambda: (Shortcut(cat_a), image(side=8)),
    "transformer": lambda: (transformer(), (torch.randn(2, 5, 8),)),
}
SLOW = (
    "MobileNetV2",
    "ShuffleNetV2",
    "ResNet-50",
    "DenseNet-121",
    "ResNeXt-50",
    "VGG-16-bn",
    "EfficientNet-B0",
    "DenseNet-40",
)
