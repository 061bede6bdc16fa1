"""Convolutions: of groups of channels, by depth, transposed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ltpl.compaction.analysis import Analysis, Fold
from ltpl.compaction.labels import Ids
from ltpl.compaction.operations.reading import (
    along,
    ask,
    can_fold,
    outputs,
    reading,
    spread,
    tie_bias,
    zero_or,
)
from ltpl.compaction.operations.rule import Rule, sizes_of
from ltpl.compaction.values import UNKNOWN, Value


class Convolution(Rule):
    """A convolution, of groups of channels if need be; transposed or not."""

    def __init__(self, transposed: bool = False):
        self.transposed = transposed

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Tie channels to kernels; channels of one group go together."""
        x, weight, bias = a.must(args["input"]), a.must(args["weight"]), a.value(args["bias"])
        channel = len(sizes_of(node)) - len(weight.sizes) + 1  # 0 without a batch
        x = a.only(x, [channel])
        a.freeze(weight, range(2, len(weight.sizes)))
        inputs, outs = weight.labels[:2] if self.transposed else weight.labels[1::-1]
        groups = args["groups"]
        if groups > 1:
            outs = self._grouped(a, weight, x.labels[channel], groups)
            const = self._grouped_const(x.along(channel), weight, bias, groups)
        else:
            a.tie(x.labels[channel], inputs)
            rows, zero = self._matrix(weight)
            known = zero_or(x.along(channel), self._takes_over(a, node, args))
            const = outputs(rows, zero, known, bias)
        tie_bias(a, bias, outs)
        sizes = sizes_of(node)
        labels: list[Ids | None] = [None] * len(sizes)
        labels[channel] = outs
        shape = [-1 if dim == channel else 1 for dim in range(len(sizes))]
        return Value.known(sizes, labels, const.view(shape))

    def _matrix(self, weight: Value) -> tuple[Tensor, Tensor]:
        """Return the sum of each kernel, and which kernels are pruned, as output by input."""
        rows = weight.const.expand(weight.sizes).flatten(2).sum(2, dtype=torch.float64)
        zero = pruned(weight)
        return (rows.t(), zero.t()) if self.transposed else (rows, zero)

    def _takes_over(self, a: Analysis, node: Node, args: dict[str, Any]) -> bool:
        """Whether the bias can take over constants: without a border of zeros."""
        padding = args["padding"]
        borderless = padding == "valid" or not any([padding] if padding == "same" else padding)
        return not self.transposed and borderless and can_fold(a, node, args)

    def _grouped(self, a: Analysis, weight: Value, x: Ids | None, groups: int) -> Ids:
        own = weight.labels[0]
        assert own is not None
        a.freeze(weight, [1])
        rows = own.reshape(groups, -1)
        a.labels.tie(rows, rows[:, :1])
        if x is None:
            a.labels.freeze(own)
        else:
            a.labels.tie(x.reshape(groups, -1), rows[:, :1])
        if not self.transposed:
            return own
        outs = a.labels.fresh(groups * weight.sizes[1])
        a.labels.tie(outs.reshape(groups, -1), rows[:, :1])
        return outs

    def _grouped_const(self, c: Tensor, weight: Value, bias: Value | None, groups: int) -> Tensor:
        dead = (c == 0).view(groups, -1)
        zero = pruned(weight)
        if self.transposed:
            zero = zero.view(groups, -1, zero.shape[1]).transpose(1, 2)
        else:
            zero = zero.view(groups, -1, zero.shape[1])
        silent = (zero | dead[:, None, :]).all(2).view(-1)
        level = torch.zeros(()) if bias is None else bias.const
        return torch.where(silent, level.double(), UNKNOWN)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Read the channels that meet a living kernel of an output that is read."""
        x, weight = a.must(args["input"]), a.must(args["weight"])
        channel = len(sizes_of(node)) - len(weight.sizes) + 1
        groups = args["groups"]
        live = along(a.live(node), channel, a.must(node).sizes[channel])
        zero = pruned(weight)
        a.want(args["weight"], torch.ones([1] * len(weight.sizes), dtype=torch.bool))
        a.want(args["bias"], live)
        if groups > 1:  # a channel goes with all outputs that read it
            number = x.sizes[channel]
            by_group = live.view(groups, -1).any(1)
            a.want(args["input"], spread(by_group.repeat_interleave(number // groups), x, channel))
            return
        read = reading(~(zero.t() if self.transposed else zero), live)
        foldable = self._takes_over(a, node, args)
        ask(a, args["input"], x, channel, read, foldable)
        if foldable and (ids := x.labels[channel]) is not None:
            assert weight.parameter is not None
            a.folds.append(Fold(weight.parameter, ids, x.along(channel)))


def pruned(weight: Value) -> Tensor:
    """Return which kernels are pruned."""
    return weight.zero.expand(weight.sizes).flatten(2).all(2)


RULES: dict[str, Rule] = {
    **{f"conv{n}d": Convolution() for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": Convolution(transposed=True) for n in (1, 2, 3)},
}
