"""The L1 penalty on scaling factors: as a subgradient, or as a proximal step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ltpl.masks.shards import local, whole

SMALL = 1e-2


class L1Penalty:
    """L1 on some parameters, `strength` times the sum of their absolute values.

    Args:
        parameters: What is penalised. Frozen parameters, and those that a step does not move (no
            gradient), are left alone.
        strength: The factor.

    Example:
        >>> weight = nn.Parameter(torch.tensor([2.0, -0.05, 0.0]))
        >>> weight.grad = torch.zeros(3)
        >>> optimizer = torch.optim.SGD([weight], lr=1.0)
        >>> L1Penalty([weight], 0.1).add_(optimizer)
        >>> weight.grad
        tensor([ 0.1000, -0.1000,  0.0000])
        >>> L1Penalty([weight], 0.1).shrink_(optimizer)
        >>> weight.data
        tensor([1.9000, -0.0000, 0.0000])
    """

    def __init__(self, parameters: Iterable[nn.Parameter], strength: float):
        self.parameters = set(parameters)
        self.strength = strength

    def stepped_by(self, group: dict[str, Any]) -> list[nn.Parameter]:
        """Return the penalised parameters of a parameter group that its next step moves."""
        mine = [p for p in group["params"] if p in self.parameters]
        return [p for p in mine if p.requires_grad and p.grad is not None]

    @torch.no_grad()
    def add_(self, optimizer: Optimizer, scaler: Any = None) -> None:
        """Add the subgradient, strength * sign(parameter), to the gradients of one optimiser.

        Args:
            optimizer: Only what this one steps is touched.
            scaler: The `GradScaler` by which the gradients are still multiplied, if they are.
        """
        moved = [p for group in optimizer.param_groups for p in self.stepped_by(group)]
        if not moved:
            return
        gradients = [local(p.grad) for p in moved if p.grad is not None]
        signs = torch._foreach_sign(tuple(map(local, moved)))
        if scaler is None:
            torch._foreach_add_(gradients, signs, alpha=self.strength)
            return
        strength = scaler.scale(torch.tensor(self.strength, device=moved[0].device))
        for gradient, sign in zip(gradients, signs, strict=True):
            gradient += sign * strength.to(gradient.device)

    @torch.no_grad()
    def shrink_(self, optimizer: Optimizer, *_: object) -> None:
        """Move parameters towards zero by lr * strength, and no further: exact zeros (ISTA).

        To be called when `optimizer` has stepped. A step that the `GradScaler` skipped shrinks
        nothing, also where the optimiser itself is told to skip it.
        """
        skipped = getattr(optimizer, "found_inf", None)
        for group in optimizer.param_groups:
            for parameter in map(local, self.stepped_by(group)):
                reach = group["lr"] * self.strength
                if skipped is not None:
                    reach = reach * (1 - skipped.to(parameter.device))
                parameter.copy_(parameter.sign() * (parameter.abs() - reach).clamp_min_(0))


@torch.no_grad()
def measured(factors: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return what is logged of scaling factors; nothing waits for the device."""
    sizes = torch.cat([whole(factor).float().abs() for factor in factors])
    return {
        "slim/l1": sizes.sum(),
        "slim/zero": (sizes == 0).sum().float(),
        "slim/small": (sizes < SMALL).float().mean(),
    }


def after_clipping(pl_module: Any, then: Callable[[], None]) -> None:
    """Call `then` once, when Lightning has clipped the gradients of the step that is under way.

    For `on_before_optimizer_step` under automatic optimisation: Lightning 2.6 unscales, calls that
    hook, calls `configure_gradient_clipping`, steps. It has no hook between the last two, and a
    pre-hook of the optimiser would run before the backward pass, which is inside its closure.
    """
    clip = pl_module.configure_gradient_clipping
    own = vars(pl_module).get("configure_gradient_clipping")

    def clip_then(*args: Any, **kwargs: Any) -> None:
        if own is None:
            del vars(pl_module)["configure_gradient_clipping"]
        else:
            vars(pl_module)["configure_gradient_clipping"] = own
        clip(*args, **kwargs)
        then()

    vars(pl_module)["configure_gradient_clipping"] = clip_then
