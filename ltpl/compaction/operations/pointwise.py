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
from ltpl.compaction.values import UNKNOWN, Value, compressed

MAPS = (
    "abs", "acos", "add", "addcdiv", "addcmul", "asin", "atan", "atan2", "bitwise_and",
    "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "celu", "clamp", "clamp_max",
    "clamp_min", "cos", "cosh", "div", "elu", "eq", "erf", "erfc", "exp", "expm1", "fill",
    "floor", "floor_divide", "fmod", "ge", "gelu", "gt", "hardsigmoid", "hardswish",
    "hardtanh", "isfinite", "isinf", "isnan", "le", "leaky_relu", "lerp", "log", "log10",
    "log1p", "log2", "log_sigmoid", "logical_and", "logical_not", "logical_or", "logical_xor",
    "logit", "lt", "maximum", "minimum", "mish", "mul", "ne", "neg", "pow", "reciprocal",
    "relu", "relu6", "remainder", "round", "rsqrt", "rsub", "selu", "sigmoid", "sign", "silu",
    "sin", "sinh", "softplus", "softsign", "sqrt", "square", "sub", "tan", "tanh", "threshold",
    "true_divide", "trunc", "where", "masked_fill", "hardshrink", "softshrink",
)  # fmt: skip
SAME = (
    "alias", "clone", "contiguous", "detach", "dropout", "feature_dropout", "alpha_dropout",
    "to", "_to_copy", "type_as", "lift_fresh_copy",
)  # fmt: skip


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
        if name in CHOICES:
            return _chosen([consts.get(k, args[k]) for k in CHOICES[name]], labels)
        found = torch.where(vague, UNKNOWN, _computed(node, {**args, **consts}))
        if name == "mul" or name in ("div", "true_divide"):
            factors = list(operands.values())[: None if name == "mul" else 1]
            if name == "mul" or "self" in operands:
                for factor in factors:
                    found = torch.where(factor.zero, 0.0, found)
        return found.broadcast_to(compressed(labels))

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What varies and is read needs all operands there."""
        if a.value(node) is None:
            return
        for x in args.values():
            a.want(x, a.live(node))


CHOICES = {"where": ("self", "other"), "masked_fill": ("self", "value")}
OPTIONS = ("alpha", "approximate", "rounding_mode", "value")
FACTORS = ("mul", "div", "true_divide", "addcmul", "addcdiv", "pow")


def _number(value: Value, factor: bool) -> Tensor:
    """Return constants as float64; a trainable factor that is zero today may grow."""
    const = value.const.to(torch.float64) if value.const.is_floating_point() else None
    if const is None:
        return torch.full(value.const.shape, UNKNOWN, dtype=torch.float64)
    if factor and value.parameter is not None:
        return torch.where(value.zero, 0.0, UNKNOWN)
    return const


def _computed(node: Node, given: dict[str, Any]) -> Tensor:
    """Return what the operation makes of constants; not known if a number depends on data."""
    if any(isinstance(x, Node) for x in given.values()):
        return torch.tensor(UNKNOWN, dtype=torch.float64)
    numbers = {k: x.nan_to_num(0) if isinstance(x, Tensor) else x for k, x in given.items()}
    schema: Any = node.target
    arguments = schema._schema.arguments
    positional = [numbers[x.name] for x in arguments if not x.kwarg_only]
    options = {x.name: numbers[x.name] for x in arguments if x.kwarg_only and x.name in OPTIONS}
    found: Tensor = getattr(torch.ops.aten, operation(node))(*positional, **options)
    return found.to(torch.float64)


def _chosen(sides: Sequence[Any], labels: Sequence[Ids | None]) -> Tensor:
    """Return what both sides of a choice agree on."""
    one, two = (
        x if isinstance(x, Tensor) else torch.tensor(x if isinstance(x, (int, float)) else UNKNOWN)
        for x in sides
    )
    agreed = torch.where(one.double() == two.double(), one.double(), UNKNOWN)
    return agreed.broadcast_to(compressed(labels))


def _tied(a: Analysis, operands: Any, dim: int) -> Ids | None:
    """Tie the labels of all operands along one dimension, counted from the last."""
    present = [v for v in operands if len(v.sizes) >= -dim and not _is_one(v.sizes[dim])]
    if not present:
        return None
    labels: Ids | None = present[0].labels[dim]
    for value in present[1:]:
        if labels is None and value.labels[dim] is None:
            continue
        labels = a.tie(labels, value.labels[dim])
    return labels


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


class Same(Rule):
    """The result is the operand, of another type perhaps."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Return what is known of the operand."""
        value = a.value(next(iter(args.values())))
        if value is None:
            return None
        if not is_float(node) or not value.const.is_floating_point():
            return Value.unknown(sizes_of(node), value.labels)
        if args.get("train"):  # dropout that stays on
            value = replace(value, const=torch.where(value.const == 0, value.const, UNKNOWN))
        return replace(value, sizes=tuple(sizes_of(node)))

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What is read of the result is read of the operand."""
        if a.value(node) is not None:
            a.want(next(iter(args.values())), a.live(node))


class Like(Same):
    """A new tensor of the operand's shape, full of one number."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Take over labels, not numbers."""
        x, name = a.must(args["self"]), operation(node)
        numbers = {"zeros_like": 0.0, "ones_like": 1.0}
        number = numbers.get(name, args.get("fill_value"))
        level = float(number) if isinstance(number, (int, float)) else UNKNOWN
        if not is_float(node):
            return Value.unknown(sizes_of(node), x.labels)
        const = torch.full(compressed(x.labels), level, dtype=torch.float64)
        return Value.known(sizes_of(node), x.labels, const)


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
    **dict.fromkeys(("zeros_like", "ones_like", "full_like"), Like()),
    "prelu": PReLU(),
}
