"""Layers with weights: linear, convolution, normalisation, embedding, products of matrices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ltpl.compaction.analysis import Analysis, Fold
from ltpl.compaction.labels import Ids
from ltpl.compaction.operations.rule import Fixed, Rule, sizes_of
from ltpl.compaction.values import UNKNOWN, Value


class Linear(Rule):
    """`x @ weight.T + bias` over the last dimension."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Tie inputs to columns and outputs to rows."""
        x, weight, bias = a.must(args["input"]), a.must(args["weight"]), a.value(args["bias"])
        a.tie(x.labels[-1], weight.labels[1])
        tie_bias(a, bias, weight.labels[0])
        const = outputs(weight.const, weight.zero, x.along(-1), bias)
        return last(sizes_of(node), x, weight.labels[0], const)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Read the inputs that meet a living weight of an output that is read."""
        x, weight = a.must(args["input"]), a.must(args["weight"])
        read = reading(~weight.zero, along(a.live(node), -1, weight.sizes[0]))
        foldable = can_fold(a, weight, args["bias"])
        ask(a, args["input"], x, -1, read, foldable)
        if foldable and x.labels[-1] is not None:
            assert weight.parameter is not None
            a.folds.append(Fold(weight.parameter, x.labels[-1], x.along(-1)))


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
            c = x.along(channel)
            if not self._even(args, weight):
                c = torch.where(c == 0, c, UNKNOWN)
            const = outputs(rows, zero, c, bias)
        tie_bias(a, bias, outs)
        sizes = sizes_of(node)
        labels: list[Ids | None] = [None] * len(sizes)
        labels[channel] = outs
        return Value.known(sizes, labels, const.view([-1 if d == channel else 1 for d in range(len(sizes))]))

    def _matrix(self, weight: Value) -> tuple[Tensor, Tensor]:
        """Return the sum of each kernel, and which kernels are pruned, as output by input."""
        rows = weight.const.flatten(2).sum(2, dtype=torch.float64)
        zero = weight.zero.flatten(2).all(2)
        return (rows.t(), zero.t()) if self.transposed else (rows, zero)

    def _even(self, args: dict[str, Any], weight: Value) -> bool:
        """Whether a constant image stays constant: no border of zeros, no overlap."""
        padding = args["padding"]
        none = padding == "valid" or not any(padding if isinstance(padding, (list, tuple)) else [1])
        return none and (not self.transposed or all(size == 1 for size in weight.sizes[2:]))

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

    def _grouped_const(
        self, c: Tensor, weight: Value, bias: Value | None, groups: int
    ) -> Tensor:
        dead = (c == 0).view(groups, -1)
        zero = weight.zero.flatten(2).all(2)
        if self.transposed:
            zero = zero.view(groups, -1, zero.shape[1]).transpose(1, 2)
        else:
            zero = zero.view(groups, -1, zero.shape[1])
        silent = (zero | dead[:, None, :]).all(2).view(-1)
        level = bias.const.to(torch.float64) if bias is not None else torch.zeros(len(silent)).double()
        return torch.where(silent, level, UNKNOWN)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Read the channels that meet a living kernel of an output that is read."""
        x, weight = a.must(args["input"]), a.must(args["weight"])
        channel = len(sizes_of(node)) - len(weight.sizes) + 1
        groups = args["groups"]
        live = along(a.live(node), channel, a.must(node).sizes[channel])
        zero = weight.zero.flatten(2).all(2)
        if groups > 1:  # a channel goes with all outputs that read it
            number = x.sizes[channel]
            by_group = live.view(groups, -1).any(1)
            a.want(args["input"], spread(by_group.repeat_interleave(number // groups), x, channel))
            return
        read = reading(~(zero.t() if self.transposed else zero), live)
        foldable = self._even(args, weight) and can_fold(a, weight, args["bias"])
        ask(a, args["input"], x, channel, read, foldable)
        if foldable and x.labels[channel] is not None:
            assert weight.parameter is not None
            a.folds.append(Fold(weight.parameter, x.labels[channel], x.along(channel)))


class Norm(Rule):
    """Batch or instance normalisation: each channel on its own, with a scale and a shift."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """A channel whose scale is pruned holds its shift, whatever comes in."""
        x = a.must(args["input"])
        x = a.only(x, [1])
        names = ("weight", "bias", "running_mean", "running_var")
        own = [v for name in names if (v := a.value(args[name])) is not None]
        inputs, channels = x.labels[1], x.labels[1]
        if own:
            channels = own[0].labels[0]
            for other in own[1:]:
                a.tie(channels, other.labels[0])
            path = (own[0].parameter or "").rpartition(".")[0]
            if a.selects(path) and inputs is not None and channels is not None:
                a.implied.append((inputs, channels, path))
            else:
                a.tie(inputs, channels)
        const = torch.full([x.sizes[1]], UNKNOWN, dtype=torch.float64)
        scale, shift = a.value(args["weight"]), a.value(args["bias"])
        level = torch.zeros_like(const) if shift is None else shift.const.to(torch.float64)
        c = x.along(1)
        if args.get("running_mean") is not None and not args.get("use_input_stats", False):
            mean, var = (a.must(args[n]).const.to(torch.float64) for n in names[2:])
            factor = torch.ones_like(const) if scale is None else scale.const.to(torch.float64)
            const = (c - mean) / (var + args["eps"]).sqrt() * factor + level
        if scale is not None:
            const = torch.where(scale.zero, level, const)
        sizes = sizes_of(node)
        labels = [channels if dim == 1 else None for dim in range(len(sizes))]
        return Value.known(sizes, labels, const.view([1, -1] + [1] * (len(sizes) - 2)))

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """A channel is read if the result is and varies."""
        a.want(args["input"], a.live(node))


class LayerNorm(Fixed):
    """Statistics over channels: all of them are needed."""


class Embedding(Rule):
    """Rows of a matrix, by number."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Every row stays; columns are the features."""
        weight = a.must(args["weight"])
        a.freeze(weight, [0])
        sizes = sizes_of(node)
        zero = weight.zero.all(0)
        labels = [None] * (len(sizes) - 1) + [weight.labels[1]]
        const = torch.where(zero, 0.0, UNKNOWN).double().view([1] * (len(sizes) - 1) + [-1])
        return Value.known(sizes, labels, const)


class Product(Rule):
    """A product of matrices, or of stacks of them."""

    names = ("self", "other")

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Tie what is summed over; a vector or a stack on the right keeps all it has."""
        left, right = (a.must(args[name]) for name in self.names)
        a.tie(left.labels[-1], right.labels[-2 if len(right.sizes) > 1 else -1])
        if len(left.sizes) < 2 or len(right.sizes) != 2:
            a.freeze(left)
            a.freeze(right)
            return Value.unknown(sizes_of(node))
        silent = (right.zero | (left.along(-1) == 0)[:, None]).all(0)
        const = torch.where(silent, 0.0, UNKNOWN).double().expand(right.sizes[1])
        left = a.only(left, [-1])
        return last(sizes_of(node), left, right.labels[1], const)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """A term is read if neither factor is zero."""
        left, right = (a.must(args[name]) for name in self.names)
        if len(left.sizes) < 2 or len(right.sizes) != 2:
            for name in self.names:
                a.want(args[name], torch.ones([1] * len(a.must(args[name]).sizes), dtype=torch.bool))
            return
        live = along(a.live(node), -1, right.sizes[1])
        alive = (~right.zero).expand(right.sizes[0], right.sizes[1])
        read = reading(alive.t(), live)
        ask(a, args[self.names[0]], left, -1, read, foldable=False)
        both = read & ~(left.along(-1) == 0)
        a.want(args[self.names[1]], both[:, None] & live[None, :])


class Sum(Product):
    """`bias + left @ right`."""

    names = ("mat1", "mat2")

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Tie the bias to the columns."""
        value = super().forward(a, node, args)
        bias = a.must(args["self"])
        if args["beta"] != 1 or args["alpha"] != 1 or len(bias.sizes) != 1:
            a.freeze(bias)
            a.freeze(value)
            return Value.unknown(value.sizes, value.labels)
        a.tie(bias.labels[0], value.labels[-1])
        return replace(value, const=value.const + bias.const.double(), zero=value.zero & bias.zero)


class Attention(Rule):
    """`scaled_dot_product_attention`: the scale depends on the width of queries; it stays."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Keep queries and keys whole; the features of values pass."""
        for name in ("query", "key", "attn_mask"):
            a.freeze(a.value(args[name]))
        value = a.only(a.must(args["value"]), [-1])
        const = torch.where(value.along(-1) == 0, 0.0, UNKNOWN).double()
        return last(sizes_of(node), value, value.labels[-1], const)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Ask for queries and keys, and for the features that are read."""
        for name in ("query", "key", "attn_mask"):
            if (value := a.value(args[name])) is not None:
                a.want(args[name], torch.ones([1] * len(value.sizes), dtype=torch.bool))
        a.want(args["value"], a.live(node))


def outputs(weight: Tensor, zero: Tensor, c: Tensor, bias: Value | None) -> Tensor:
    """Return the constants of `weight @ c + bias`, NaN where an input that varies has a say."""
    vague = c.isnan()
    silent = zero[:, vague].all(1)
    level = bias.const.to(torch.float64) if bias is not None else torch.zeros(len(zero)).double()
    some = ~vague & (c != 0)
    if bool(some.any()):
        level = level + weight[:, some].to(torch.float64) @ c[some]
    return torch.where(silent, level, UNKNOWN)


def reading(alive: Tensor, live: Tensor) -> Tensor:
    """Return which columns of a matrix have a living weight in a row that is read."""
    return alive[live].any(0)


def along(need: Tensor, dim: int, size: int) -> Tensor:
    """Return which slices along `dim` are read anywhere."""
    return need.movedim(dim, 0).reshape(need.shape[dim], -1).any(1).expand(size)


def spread(read: Tensor, value: Value, dim: int) -> Tensor:
    """Return `read` as a need of `value` along `dim`."""
    dim %= len(value.sizes)
    return read.view([-1 if d == dim else 1 for d in range(len(value.sizes))])


def ask(a: Analysis, node: Node, value: Value, dim: int, read: Tensor, foldable: bool) -> None:
    """Read slices along `dim`; those that vary must stay, and constants that nobody takes over."""
    c = value.along(dim)
    silent = (c == 0) | value.zero_along(dim)
    a.want(node, spread(read & ~silent & c.isnan(), value, dim))
    must = read & ~silent & (c.isnan() if foldable else True)
    a.veto(value.labels[dim], must)


def can_fold(a: Analysis, weight: Value, bias: Any) -> bool:
    """Whether the layer is an ordinary one whose bias can take over constants."""
    path, _, leaf = (weight.parameter or "").rpartition(".")
    if weight.parameter is None or leaf != "weight":
        return False
    layer = a.model.get_submodule(path)
    ordinary = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    own = isinstance(layer, ordinary) and type(layer).forward in (
        torch.nn.Linear.forward,
        torch.nn.Conv1d.forward,
        torch.nn.Conv2d.forward,
        torch.nn.Conv3d.forward,
    )
    readers = [n for n, name in a.graph.tensors.items() if name == weight.parameter]
    return own and len(readers) == 1 and sum(len(n.users) for n in readers) == 1


def tie_bias(a: Analysis, bias: Value | None, labels: Ids | None) -> None:
    """Let a bias go with its outputs."""
    if bias is not None:
        a.tie(bias.labels[0], labels)


def last(sizes: list[Any], x: Value, labels: Ids | None, const: Tensor) -> Value:
    """Return a value with new labels along the last dimension, and the others of `x`."""
    every = [*x.labels[: len(sizes) - 1], labels]
    shape = [1 if ids is None else len(ids) for ids in every]
    flat = const.view([1] * (len(sizes) - 1) + [-1])
    return Value.known(sizes, every, flat.expand(shape))


RULES: dict[str, Rule] = {
    "linear": Linear(),
    **{f"conv{n}d": Convolution() for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": Convolution(transposed=True) for n in (1, 2, 3)},
    "batch_norm": Norm(),
    "instance_norm": Norm(),
    "layer_norm": LayerNorm(),
    "group_norm": LayerNorm(),
    "rms_norm": LayerNorm(),
    "softmax": Fixed(),
    "log_softmax": Fixed(),
    "embedding": Embedding(),
    "matmul": Product(),
    "mm": type("MM", (Product,), {"names": ("self", "mat2")})(),
    "addmm": Sum(),
    "scaled_dot_product_attention": Attention(),
}

