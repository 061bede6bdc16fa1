"""Operations that work on each element alone: activations, sums, products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.graph import operation
from ltpl.compaction.labels import Ids
from ltpl.compaction.operations.rule import Rule, is_float, sizes_of
from ltpl.compaction.values import UNKNOWN, Value

MAPS = """
    abs acos add addcdiv addcmul asin atan atan2 bitwise_and bitwise_not bitwise_or bitwise_xor ceil
    celu clamp clamp_max clamp_min cos cosh div elu eq erf erfc exp expm1 fill floor floor_divide
    fmod ge gelu gt hardsigmoid hardswish hardtanh isfinite isinf isnan le leaky_relu lerp log log10
    log1p log2 log_sigmoid logical_and logical_not logical_or logical_xor logit lt maximum minimum
    mish mul ne neg pow reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid sign silu sin
    sinh softplus softsign sqrt square sub tan tanh threshold true_divide trunc where masked_fill
    zeros_like ones_like full_like
""".split()
SAME = "alias clone contiguous detach dropout feature_dropout alpha_dropout to _to_copy".split()


class Pointwise(Rule):
    """Slices at the same place go together; a constant stays a constant."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Tie all operands, and compute on the constants."""
        if not isinstance(node.meta.get("val"), torch.Tensor):
            return None
        sizes = sizes_of(node)
        operands = {k: v for k, x in args.items() if (v := a.value(x)) is not None}
        labels = [_tied(a, operands.values(), dim - len(sizes)) for dim in range(len(sizes))]
        summands = [v for v in operands.values() if v.parameter is None and v.tracked]
        if operation(node) in ("add", "sub", "rsub") and len(summands) > 1:
            a.sums += [ids for ids in labels if ids is not None]
        if not is_float(node):
            return Value.unknown(sizes, labels)
        return Value.known(sizes, labels, self.const(node, args, operands, labels))

    def const(
        self,
        node: Node,
        args: dict[str, Any],
        operands: dict[str, Value],
        labels: Sequence[Ids | None],
    ) -> Tensor:
        """Return the constants of the result."""
        name = operation(node)
        consts = {k: _number(v, factor=name in FACTORS) for k, v in operands.items()}
        vague = torch.zeros([1] * len(labels), dtype=torch.bool)
        for value in consts.values():
            vague = vague | value.isnan()
        if name in ("where", "masked_fill"):
            return _chosen(operands, consts, args, labels)
        given = {k: consts[k].nan_to_num(0) if k in consts else x for k, x in args.items()}
        found = getattr(torch.ops.aten, name)(*_positional(node, given)).to(torch.float64)
        found = torch.where(vague, UNKNOWN, found)
        if name == "mul" or name in ("div", "true_divide"):
            factors = list(operands.values())[: None if name == "mul" else 1]
            if name == "mul" or "self" in operands:
                for value in factors:
                    found = torch.where(value.zero, 0.0, found)
        return found.broadcast_to([1 if x is None else len(x) for x in labels])

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What varies and is read needs all operands there."""
        if a.value(node) is None:
            return
        for x in args.values():
            a.want(x, a.live(node))


FACTORS = ("mul", "div", "true_divide", "addcmul", "addcdiv", "pow")


def _number(value: Value, factor: bool) -> Tensor:
    """Return constants as float64; a trainable factor that is zero today may grow."""
    const = value.const.to(torch.float64) if value.const.is_floating_point() else None
    if const is None:
        return torch.full(value.const.shape, UNKNOWN, dtype=torch.float64)
    if factor and value.parameter is not None:
        return torch.where(value.zero, 0.0, UNKNOWN)
    return const


def _positional(node: Node, given: dict[str, Any]) -> list[Any]:
    schema: Any = node.target
    names = [x.name for x in schema._schema.arguments if not x.kwarg_only]
    values = [given[name] for name in names]
    return [v for v in values if not isinstance(v, Node)]


def _chosen(
    operands: dict[str, Value],
    consts: dict[str, Tensor],
    args: dict[str, Any],
    labels: Sequence[Ids | None],
) -> Tensor:
    """Return what both sides of a choice agree on."""
    condition = ("condition", "mask")
    sides = [consts[k] for k in args if k in consts and k not in condition]
    numbers = [x for k, x in args.items() if k in ("value", "other") and k not in operands]
    sides += [torch.tensor(float(x), dtype=torch.float64) for x in numbers if x is not None]
    first = sides[0]
    for other in sides[1:]:
        first = torch.where(first == other, first, UNKNOWN)
    return first.broadcast_to([1 if x is None else len(x) for x in labels])


def _tied(a: Analysis, operands: Any, dim: int) -> Ids | None:
    """Tie the labels of all operands along one dimension, counted from the last."""
    present = [v for v in operands if len(v.sizes) >= -dim and not _is_one(v.sizes[dim])]
    if not present:
        return None
    labels = present[0].labels[dim]
    for value in present[1:]:
        if labels is None and value.labels[dim] is None:
            continue
        labels = a.tie(labels, value.labels[dim])
    return labels


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


class Same(Rule):
    """The result is the operand."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Return what is known of the operand."""
        value = a.value(next(iter(args.values())))
        return None if value is None else replace(value, sizes=tuple(sizes_of(node)))

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What is read of the result is read of the operand."""
        if a.value(node) is not None:
            a.want(next(iter(args.values())), a.live(node))


class PReLU(Pointwise):
    """A slope for each channel, or one for all."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Tie the slopes to the channels; zero stays zero."""
        x, slope = a.must(args["self"]), a.must(args["weight"])
        dim = min(1, len(x.sizes) - 1)
        if slope.sizes[0] == 1:
            a.freeze(slope)
        else:
            a.tie(slope.labels[0], x.labels[dim])
        return replace(
            x, const=torch.where(x.zero, 0.0, UNKNOWN), sizes=tuple(sizes_of(node)), parameter=None
        )

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What is read of the result is read of the operand."""
        a.want(args["self"], a.live(node))


RULES: dict[str, Rule] = {
    **{name: Pointwise() for name in MAPS},
    **{name: Same() for name in SAME},
    "prelu": PReLU(),
}
