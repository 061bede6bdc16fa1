"""The networks of the compaction table, and masks over their scaling factors or weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.modules.batchnorm import _BatchNorm

from ltpl import models as ours
from ltpl.compaction.groups import coupling
from ltpl.masks import Mask, channel_mask, prune
from ltpl.masks.norms import scaled_norms
from ltpl.masks.units import units_of

Example = tuple[Any, ...]


class UNet(nn.Module):
    """Two levels, transposed convolutions, and skips that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = double(3, 16), double(16, 32), double(32, 64)
        self.up2 = nn.ConvTranspose2d(64, 32, 2, 2)
        self.right2 = double(64, 32)
        self.up1 = nn.ConvTranspose2d(32, 16, 2, 2)
        self.right1 = double(32, 16)
        self.output = nn.Conv2d(16, 2, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(self.pool(one))
        x = self.up2(self.bottom(self.pool(two)))
        x = self.up1(self.right2(torch.cat([x, two], 1)))
        return self.output(self.right1(torch.cat([x, one], 1)))


def double(inputs: int, outputs: int) -> nn.Sequential:
    layers = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class Gated(nn.Module):
    """Gated linear units between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.two, self.norm2 = nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.output = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.glu(self.norm1(self.one(x)), dim=1)
        x = nn.functional.glu(self.norm2(self.two(x)), dim=1)
        return self.output(x.mean((2, 3)))


class Tied(nn.Module):
    """One matrix used forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(20, 64, bias=False)
        self.norm = nn.BatchNorm1d(64)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.relu(self.norm(self.one(x))), self.one.weight.t())


class Hard(nn.Module):
    """LeNet whose code says how many features there are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 5), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 5), nn.BatchNorm2d(32)
        self.hidden, self.output = nn.Linear(32 * 5 * 5, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.norm1(self.conv1(x))), 2)
        x = nn.functional.max_pool2d(torch.relu(self.norm2(self.conv2(x))), 2)
        return self.output(torch.relu(self.hidden(x.view(-1, 32 * 5 * 5))))


class LambdaShortcut(nn.Module):
    """Option A as it is often written: a padding inside a lambda."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, 2, padding=1), nn.BatchNorm2d(32)
        self.output = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        shortcut = pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8), "constant", 0)
        return self.output(torch.relu(self.norm2(self.conv2(x)) + shortcut).mean((2, 3)))


class OnGraph(nn.Module):
    """Two layers of PyG with a BatchNorm between."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        import torch_geometric.nn as pyg

        def layer(inputs: int, outputs: int, heads: int = 1) -> nn.Module:
            if kind == "GIN":
                return pyg.GINConv(
                    nn.Sequential(
                        nn.Linear(inputs, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, outputs)
                    )
                )
            if kind == "GAT":
                return pyg.GATConv(inputs, outputs // heads, heads=heads)
            return getattr(pyg, f"{kind}Conv")(inputs, outputs)

        self.one, self.norm, self.two = layer(12, 64, 4), nn.BatchNorm1d(64), layer(64, 5)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.two(torch.relu(self.norm(self.one(x, edges))), edges)


def architectures(size: int = 64) -> dict[str, Callable[[], tuple[nn.Module, Example]]]:
    """Return what makes each network and what it is called with, by name."""
    from torchvision import models as tv

    small, large = (torch.randn(2, 3, 32, 32),), (torch.randn(2, 3, size, size),)
    digit = (torch.randn(2, 1, 28, 28),)
    edges = torch.randint(30, (2, 90))
    graph = (torch.randn(30, 12), edges)
    mlp = nn.Sequential
    return {
        "ResNet-20 A": lambda: (ours.ResNet(20), small),
        "ResNet-20 B": lambda: (ours.ResNet(20, shortcut="B"), small),
        "option A in a lambda": lambda: (LambdaShortcut(), small),
        "PreResNet-20, bottleneck": lambda: (ours.PreResNet(20), small),
        "PreResNet-20, basic": lambda: (ours.PreResNet(20, block="basic"), small),
        "ResNet-18": lambda: (tv.resnet18(), large),
        "ResNet-50": lambda: (tv.resnet50(), large),
        "VGG-16-bn": lambda: (tv.vgg16_bn(), large),
        "DenseNet-121": lambda: (tv.densenet121(), large),
        "MobileNetV2": lambda: (tv.mobilenet_v2(), large),
        "EfficientNet-B0": lambda: (tv.efficientnet_b0(), large),
        "ResNeXt-50": lambda: (tv.resnext50_32x4d(), large),
        "ShuffleNetV2": lambda: (tv.shufflenet_v2_x1_0(), large),
        "U-Net": lambda: (UNet(), small),
        "LeNet-5": lambda: (ours.LeNet5(), digit),
        "LeNet-300-100": lambda: (ours.LeNet300(), digit),
        "LeNet, view(-1, 800)": lambda: (Hard(), small),
        "MLP, BatchNorm1d": lambda: (
            mlp(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 5)),
            (torch.randn(4, 20),),
        ),
        "tied weights": lambda: (Tied(), (torch.randn(4, 20),)),
        "GLU": lambda: (Gated(), small),
        "Transformer layer": lambda: (
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
            (torch.randn(2, 7, 32),),
        ),
        "LSTM": lambda: (nn.LSTM(8, 16), (torch.randn(5, 2, 8),)),
        **{
            f"PyG {kind}": lambda kind=kind: (OnGraph(kind), graph)
            for kind in ("GCN", "SAGE", "GAT", "GIN")
        },
    }


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Give every BatchNorm statistics, scales and shifts that it could have after training."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.weight.normal_(1, 0.3)
            module.bias.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)


def masked(model: nn.Module, example: Example, amount: float, kind: str) -> Mask:
    """Return a random mask.

    Args:
        model: The network.
        example: What it is called with.
        amount: Share that goes.
        kind: `channels`, each alone; `groups`: what is added together goes together; `weights`:
            single weights. Without BatchNorm, `channels` are rows of matrices and kernels.
    """
    has_norms = any(isinstance(m, _BatchNorm) for m in model.modules())
    if kind == "weights" or not has_norms:
        return _over_weights(model, amount, kind)
    units = None
    if kind == "groups":
        found = coupling(model, example, scaled_norms(model))
        units = units_of("group", found.units, found.trunk)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed = int(torch.randint(1 << 30, ()))
        return channel_mask(model, amount, score="random", units=units, seed=seed)


def _over_weights(model: nn.Module, amount: float, kind: str) -> Mask:
    if kind == "weights":
        return prune(model, amount)
    weights = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    keep = {}
    for name, weight in list(weights.items())[:-1]:
        rows = torch.rand(len(weight)) >= amount
        rows[0] = True
        shape = [-1] + [1] * (weight.dim() - 1)
        keep[name] = rows.view(shape).expand_as(weight).clone()
    return Mask(keep)
