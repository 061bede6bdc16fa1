"""Modules that call their networks in all kinds of ways."""

from __future__ import annotations

from typing import Any

import torch
from shrink import Watched, convolutional, varied
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Direct(Watched):
    """Its layers sit on it, and its own code says numbers of channels."""

    def __init__(self, net: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(nn.Identity(), *args, **kwargs)
        del self.net
        self.conv, self.norm, self.head = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Linear(24, 3)
        self.first, self.second = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
        self.third = nn.Conv2d(4, 2, 1)
        varied(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(x)).relu())
        return self.head(self.norm(self.conv(x)).relu().view(-1, 24))

    def predict(self, x: Tensor) -> Tensor:
        return self(x)


class TwoArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.gain = convolutional(), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, shift: Tensor, factor: float = 1.0) -> Tensor:
        return self.net(x * factor + shift) * self.gain


class Positional(Watched):
    def predict(self, x: Tensor) -> Tensor:
        return self.net(x, x.flip(0))


class ByName(Watched):
    def predict(self, x: Tensor) -> Tensor:
        return self.net(x, factor=2.0, shift=x.flip(0))


class Manual(Watched):
    """Two optimisers, stepped by hand."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        first, *rest = self.net.children()
        others = [p for module in rest for p in module.parameters()]
        return [torch.optim.SGD(first.parameters(), 0.1), torch.optim.Adam(others, 0.01)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        first.zero_grad()
        second.zero_grad()
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.steps.append(float(loss.detach()))
        self.manual_backward(loss)
        first.step()
        second.step()


class Wrapped(nn.Module):
    """A loss beside the network, and a list that is never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(convolutional())

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Holding(Watched):
    """Keeps its last loss, and with it the graph of the step before."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.kept = super().training_step(batch, batch_idx)
        return self.kept
