"""Enforcement: what is pruned stays exactly zero, in weights, gradients and optimiser slots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ltpl.masks.errors import checked
from ltpl.masks.mask import Mask
from ltpl.masks.shards import is_sharded, local, part

ROOTED = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")  # slots whose square root is taken
KEEP_ZERO = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


class Enforcement:
    """Keeps parameters under their mask by multiplying in place; nothing is reparametrised.

    Parameters keep their names, order and identity, so checkpoints, averages, compiled graphs and
    distributed wrappers do not notice.

    Args:
        parameters: The live parameters by name. Those without a mask, or kept whole, cost nothing.
        mask: What is kept.
        pinned: Values that pruned weights hold instead of zero, by name (frozen at their
            initial value).

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9)
        >>> rule = Enforcement(dict(net.named_parameters()),
        ...                    Mask({"weight": torch.tensor([[True, False]])}))
        >>> _ = rule.attach(optimizer)
        >>> net(torch.ones(1, 2)).sum().backward()
        >>> rule.zero_gradients()
        >>> optimizer.step()
        >>> held = net.weight, optimizer.state[net.weight]["momentum_buffer"]
        >>> [bool(values[0, 1] == 0) for values in held]
        [True, True]
    """

    @checked
    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        mask: Mask,
        pinned: Mapping[str, Tensor] | None = None,
    ):
        mask.must_fit(parameters)
        if pinned is not None and (lost := [name for name in mask if name not in pinned]):
            raise ValueError(f"pinned: it has no values for {', '.join(lost)}.")
        self._factor: dict[nn.Parameter, Tensor] = {}
        self._pinned: dict[nn.Parameter, Tensor] = {}
        self._gaps: dict[nn.Parameter, Tensor] = {}
        for name, keep in mask.items():
            parameter = parameters[name]
            if not bool(keep.all()):
                factor = keep.to(parameter.device, parameter.dtype)
                factor = self._factor[parameter] = part(factor, parameter)
                if parameter.device.type == "cpu":
                    self._gaps[parameter] = 1 - factor
                if pinned is not None:
                    values = part(pinned[name].to(parameter.device, parameter.dtype), parameter)
                    self._pinned[parameter] = values.masked_fill(factor.bool(), 0)
        self._sharded = any(map(is_sharded, self._factor))
        self.zero_weights(self._factor)

    @torch.no_grad()
    def zero_weights(self, parameters: Iterable[nn.Parameter]) -> None:
        """Set the pruned weights of `parameters` to zero, or to their pinned values."""
        mine = [p for p in parameters if p in self._factor]
        self._multiply(mine, mine)
        if self._pinned and mine:
            torch._foreach_add_(self._here(mine), tuple(self._pinned[p] for p in mine))

    @torch.no_grad()
    def zero_gradients(self) -> None:
        """Set the gradients of pruned weights to zero."""
        found = [(p, p.grad) for p in self._factor if p.grad is not None]
        dense = [(p, g) for p, g in found if g.layout == torch.strided]
        self._multiply([g for _, g in dense], [p for p, _ in dense])

    @torch.no_grad()
    def zero_slots(self, optimizer: Optimizer, names: Sequence[str] | None = None) -> None:
        """Set momenta, moments and other slots of pruned weights to zero; all, or those named."""
        slots, owners = [], []
        for parameter in self._factor:
            for name, slot in optimizer.state.get(parameter, {}).items():
                if names is not None and name not in names:
                    continue
                if isinstance(slot, Tensor) and slot.shape == parameter.shape:
                    slots.append(slot)
                    owners.append(parameter)
        self._multiply(slots, owners)

    def _multiply(self, tensors: Sequence[Tensor], owners: Sequence[nn.Parameter]) -> None:
        if tensors:
            torch._foreach_mul_(self._here(tensors), tuple(self._factor[p] for p in owners))

    def _here(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(map(local, tensors) if self._sharded else tensors)

    def attach(self, optimizer: Optimizer, gradients_masked: bool = False) -> list[RemovableHandle]:
        """Enforce after each step of `optimizer`, from now until the handles are removed.

        Optimisers that step another one they hold (SAM, Lookahead) are followed inside.

        Args:
            optimizer: The optimiser.
            gradients_masked: A promise that gradients are masked whenever it steps. Then SGD,
                Adam and AdamW keep zero slots at zero by their own arithmetic, and no time is
                spent on it.
        """
        inner = [held for held in vars(optimizer).values() if isinstance(held, Optimizer)]
        handles = [handle for held in inner for handle in self.attach(held)]
        self.zero_slots(optimizer)
        stepped = [p for group in optimizer.param_groups for p in group["params"]]

        lifted = bool(self._gaps) and not optimizer.defaults.get("fused")
        keeps_zero = gradients_masked and type(optimizer) in KEEP_ZERO
        names = (ROOTED if lifted else ()) if keeps_zero else None

        def enforce(optimizer: Optimizer, *_: object) -> None:
            self.zero_weights(stepped)
            if names != ():
                self.zero_slots(optimizer, names)

        handles.append(optimizer.register_step_post_hook(enforce))
        if lifted:
            handles.append(optimizer.register_step_pre_hook(self._lift_slots))
        return handles

    @torch.no_grad()
    def _lift_slots(self, optimizer: Optimizer, *_: object) -> None:
        """Raise second moments of pruned weights to one while the optimiser steps.

        A CPU takes six times as long for the square root of an exact zero. The first moment is
        zero, so the weight does not move, and the slot is zero again when the step is done.
        """
        slots, gaps = [], []
        for parameter, gap in self._gaps.items():
            state = optimizer.state.get(parameter, {})
            found = [state[name] for name in ROOTED if name in state]
            slots += found
            gaps += [gap] * len(found)
        if slots:
            torch._foreach_add_(self._here(slots), tuple(gaps))
