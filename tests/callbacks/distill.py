"""Distillation written out in plain torch, as one would write it down from the papers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from tiny import EPOCHS, loader
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

ALPHA, TEMPERATURE = 0.3, 3.0


def kl(z: Tensor, goal: Tensor, temperature: float) -> Tensor:
    ours, theirs = (log_softmax(x.float() / temperature, 1) for x in (z, goal))
    return kl_div(ours, theirs, reduction="batchmean", log_target=True)


@dataclass
class ByHand:
    net: nn.Module
    teacher: nn.Module
    optimizer: torch.optim.Optimizer
    alpha: Callable[[int], float] = lambda epoch: ALPHA
    temperature: Callable[[int], float] = lambda epoch: TEMPERATURE
    divergence: Callable[[Tensor, Tensor, float], Tensor] = kl
    own: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    autocast: torch.dtype | None = None
    scale: bool = True
    batches: Iterable[Sequence[Tensor]] = field(default_factory=loader)

    def fit(self) -> dict[str, Tensor]:
        self.teacher.eval()
        batches = list(self.batches)
        for epoch in range(EPOCHS):
            for number, (x, y) in enumerate(batches):
                cast = torch.autocast("cpu", self.autocast) if self.autocast else nullcontext()
                with cast:
                    z = self.net(x)
                    with torch.no_grad():
                        goal = self.teacher(x)
                    alpha, t = self.alpha(epoch), self.temperature(epoch)
                    weight = alpha * t**2 if self.scale else alpha
                    loss = (1 - alpha) * self.own(z, y) + weight * self.divergence(z, goal, t)
                (loss / self.accumulate).backward()
                if (number + 1) % self.accumulate and number + 1 < len(batches):
                    continue
                parameters = list(self.net.parameters())
                if self.clip_norm is not None:
                    nn.utils.clip_grad_norm_(parameters, self.clip_norm)
                if self.clip_value is not None:
                    nn.utils.clip_grad_value_(parameters, self.clip_value)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return self.net.state_dict()


def equal(net: nn.Module, expected: dict[str, Any]) -> bool:
    found = net.state_dict()
    return found.keys() == expected.keys() and all(
        torch.equal(found[n], expected[n]) for n in found
    )
