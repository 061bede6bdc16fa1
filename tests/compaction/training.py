"""Small networks with channels to remove, and masked training to compare with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from ltpl.masks import Enforcement, Mask

EQUAL = 1e-9
Make = Callable[[nn.Module], list[Optimizer]]


def convolutional() -> nn.Sequential:
    """Two normalised layers, fed with images of 6x6 pixels."""
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    return vivid(net)


def vivid(net: nn.Module) -> nn.Module:
    """Give normalisation layers scales, shifts and statistics of all kinds."""
    for norm in net.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return net.double()


def channels(net: nn.Module, share: float = 0.5) -> Mask:
    """Prune random channels of every BatchNorm: scale and shift."""
    keep = {}
    for path, norm in net.named_modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            count = norm.num_features
            stays = torch.ones(count, dtype=torch.bool)
            stays[torch.randperm(count)[: round(share * count)]] = False
            keep |= {f"{path}.weight": stays, f"{path}.bias": stays}
    return Mask(keep)


def batches(count: int = 6, shape: Sequence[int] = (2, 6, 6)) -> list[tuple[Tensor, Tensor]]:
    return [
        (torch.randn(5, *shape, dtype=torch.float64), torch.randint(3, (5,))) for _ in range(count)
    ]


class Run:
    """A network with its optimisers, trained a batch at a time, under a mask if there is one."""

    def __init__(self, net: nn.Module, make: Make):
        self.net, self.optimizers, self.handles = net, make(net), []
        self.rule: Enforcement | None = None

    def mask(self, mask: Mask) -> None:
        mask.apply_(self.net)
        self.rule = Enforcement(dict(self.net.named_parameters()), mask)
        self.handles = [h for o in self.optimizers for h in self.rule.attach(o)]

    def unmask(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.rule, self.handles = None, []

    def step(self, x: Tensor, y: Tensor, accumulate: bool = False) -> float:
        self.net.train()
        loss = cross_entropy(self.net(x), y)
        loss.backward()
        if not accumulate:
            if self.rule is not None:
                self.rule.zero_gradients()
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
        return float(loss.detach())


def outputs(net: nn.Module, x: Any) -> Tensor:
    net.eval()
    with torch.no_grad():
        return net(x)


def everything(net: nn.Module, optimizers: Sequence[Optimizer] = ()) -> dict[str, Any]:
    """Copy all that training could change."""
    return copy.deepcopy(
        {
            "weights": net.state_dict(),
            "gradients": {n: p.grad for n, p in net.named_parameters()},
            "modes": {n: m.training for n, m in net.named_modules()},
            "slots": [o.state_dict() for o in optimizers],
        }
    )


def same(one: Any, other: Any) -> bool:
    """Whether two nested states have the same bits."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def one(kind: Callable[..., torch.optim.Optimizer], **options: Any) -> Make:
    return lambda net: [kind(net.parameters(), lr=0.01, **options)]


def by_kind(net: nn.Module) -> list[torch.optim.Optimizer]:
    """Weight decay for matrices and kernels only, as most recipes have it."""
    groups = [[p for p in net.parameters() if (p.dim() > 1) is many] for many in (True, False)]
    decayed = [{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "lr": 0.02}]
    return [torch.optim.AdamW(decayed, lr=0.01)]


def several(net: nn.Module) -> list[torch.optim.Optimizer]:
    first, *rest = net.children()
    others = [p for module in rest for p in module.parameters()]
    return [
        torch.optim.SGD(first.parameters(), lr=0.05, momentum=0.9),
        torch.optim.Adam(others, lr=0.01),
    ]


OPTIMIZERS: dict[str, Make] = {
    "sgd": one(torch.optim.SGD),
    "momentum, weight decay": one(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": one(torch.optim.Adam),
    "adamw, amsgrad": one(torch.optim.AdamW, amsgrad=True),
    "adam, foreach": one(torch.optim.Adam, foreach=True),
    "adam, fused": one(torch.optim.Adam, fused=True),
    "rmsprop": one(torch.optim.RMSprop, momentum=0.5, centered=True),
    "adagrad": one(torch.optim.Adagrad, initial_accumulator_value=0.1),
    "several": several,
    "groups": by_kind,
}


def halfway(make: Make, net: nn.Module | None = None, steps: int = 3) -> tuple[Run, Run, Mask]:
    """Train twins for some steps and mask the first; the second is as it was before."""
    net = convolutional() if net is None else net
    masked, small = Run(net, make), Run(twin := copy.deepcopy(net), make)
    for x, y in batches(steps):
        masked.step(x, y)
        small.step(x, y)
    mask = channels(twin)
    masked.mask(mask)
    return masked, small, mask
