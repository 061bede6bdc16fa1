"""Network slimming in plain torch, and modules to compare it on."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny import EPOCHS, Tiny, loader, trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ltpl.callbacks import NetworkSlimming
from ltpl.masks import Enforcement, Mask

L1 = 0.02


def network() -> nn.Sequential:
    net = nn.Sequential(
        nn.Linear(8, 16),
        nn.BatchNorm1d(16),
        nn.Tanh(),
        nn.Linear(16, 12),
        nn.BatchNorm1d(12),
        nn.Tanh(),
        nn.Linear(12, 3),
    )
    for norm in norms(net).values():
        nn.init.uniform_(norm.weight, -1, 1)
        nn.init.normal_(norm.bias)
    return net


def norms(net: nn.Module) -> dict[str, nn.BatchNorm1d]:
    return {n: m for n, m in net.named_modules() if isinstance(m, nn.BatchNorm1d)}


def halves(net: nn.Sequential) -> list[list[nn.Parameter]]:
    parts = net[:3], net[3:]
    return [[p for module in part for p in module.parameters()] for part in parts]


class Alternating(Tiny):
    """Manual optimisation: one optimiser steps each batch, the other each second batch."""

    clip: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [self.make_optimizer(half, lr=self.lr) for half in halves(self.net)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(cross_entropy(self.net(batch[0]), batch[1]))
        for number, optimizer in enumerate(self.optimizers()):
            if (batch_idx + 1) % (number + 1) == 0:
                if self.clip is not None:
                    self.clip_gradients(optimizer, self.clip, gradient_clip_algorithm="norm")
                optimizer.step()
                optimizer.zero_grad()


@dataclass
class SlimByHand:
    """The scripts of the paper: clip, add the subgradient, step; prune the smallest once."""

    net: nn.Sequential
    optimizers: list[torch.optim.Optimizer]
    l1: float = L1
    epochs: int = EPOCHS
    prune_at: int | None = None
    penalty_after: bool = False
    proximal: bool = False
    accumulate: int = 1
    alternating: bool = False
    clip_norm: float | None = None
    clip_value: float | None = None
    autocast: torch.dtype | None = None
    scaler: Any = None
    only: str | None = None
    before_unscaling: bool = False
    before_clipping: bool = False

    def __post_init__(self) -> None:
        self.on = True

    @property
    def gammas(self) -> list[nn.Parameter]:
        return [norm.weight for n, norm in norms(self.net).items() if self.only in (None, n)]

    def prune(self) -> None:
        sizes = torch.cat([gamma.detach().abs() for gamma in self.gammas])
        order = sizes.sort(stable=True, descending=True).indices
        keep = torch.zeros_like(sizes, dtype=torch.bool)
        keep[order[: len(sizes) - round(len(sizes) / 2)]] = True
        mask = {}
        for (name, norm), part in zip(
            norms(self.net).items(), keep.split([len(g) for g in self.gammas]), strict=True
        ):
            mask |= {f"{name}.weight": part, f"{name}.bias": part}
            assert norm.weight.shape == part.shape
        self.rule = Enforcement(dict(self.net.named_parameters()), Mask(mask))
        for optimizer in self.optimizers:
            self.rule.attach(optimizer)
        self.on = self.penalty_after

    def add(self, mine: set[nn.Parameter]) -> None:
        for gamma in self.gammas:
            if gamma in mine and gamma.grad is not None and self.on and not self.proximal:
                gamma.grad += self.l1 * gamma.detach().sign()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        mine = {p for group in optimizer.param_groups for p in group["params"]}
        if self.before_unscaling:
            self.add(mine)
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        if hasattr(self, "rule"):
            self.rule.zero_gradients()
        if self.before_clipping:
            self.add(mine)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(mine, self.clip_norm)
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(mine, self.clip_value)
        if not self.before_unscaling and not self.before_clipping:
            self.add(mine)
        skipped = False
        if self.scaler is None:
            optimizer.step()
        else:
            before = self.scaler.get_scale()
            self.scaler.step(optimizer)
            self.scaler.update()
            skipped = self.scaler.get_scale() < before
        if self.proximal and self.on and not skipped:
            self.shrink(mine, optimizer.param_groups[0]["lr"])

    @torch.no_grad()
    def shrink(self, mine: set[nn.Parameter], lr: float) -> None:
        for gamma in self.gammas:
            if gamma in mine:
                gamma.copy_(nn.functional.softshrink(gamma, lr * self.l1))

    def fit(self) -> dict[str, Tensor]:
        batches = list(loader())
        for epoch in range(self.epochs):
            if epoch == self.prune_at:
                self.prune()
            for number, (x, y) in enumerate(batches):
                cast = torch.autocast("cpu", self.autocast) if self.autocast else nullcontext()
                with cast:
                    loss = cross_entropy(self.net(x), y) / self.accumulate
                (self.scaler.scale(loss) if self.scaler is not None else loss).backward()
                if (number + 1) % self.accumulate and number + 1 < len(batches):
                    continue
                for index, optimizer in enumerate(self.optimizers):
                    if not self.alternating or (number + 1) % (index + 1) == 0:
                        self.step(optimizer)
                        optimizer.zero_grad()
        return {n: p.detach() for n, p in self.net.named_parameters()}


def fit(folder: Path, slimming: NetworkSlimming, *others: Any, **options: Any) -> Tiny:
    module = options.pop("module", None) or Tiny(network())
    trainer(folder, [slimming, *others], **options).fit(module, loader())
    return module
