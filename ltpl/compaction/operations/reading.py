"""What layers with weights share: constants of a product, and which of its terms are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.graph import owner
from ltpl.compaction.labels import Ids
from ltpl.compaction.values import UNKNOWN, Value


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


def can_fold(a: Analysis, node: Node, args: dict[str, Any]) -> bool:
    """Whether `node` is the one call of an ordinary layer, whose bias can take over constants."""
    weight, bias = a.must(args["weight"]).parameter, args["bias"]
    path, _, leaf = (weight or "").rpartition(".")
    if weight is None or leaf != "weight" or not path or owner(node) != path:
        return False
    if type(a.model.get_submodule(path)).forward not in FOLDING or not _once(a, weight):
        return False
    if not isinstance(bias, Node):
        return f"{path}.bias" not in a.tensors
    return a.must(bias).parameter == f"{path}.bias" and _once(a, f"{path}.bias")


FOLDING = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)


def _once(a: Analysis, name: str) -> bool:
    """Whether a parameter is read in one place."""
    return sum(len(n.users) for n, tensor in a.graph.tensors.items() if tensor == name) == 1


def inputs(value: Value, foldable: bool) -> Tensor:
    """Return the constants along the last dimension that a layer may count on.

    Others than zero only if its bias can take them over: else they have to stay, and be read.
    """
    return zero_or(value.along(-1), foldable)


def zero_or(const: Tensor, everything: bool) -> Tensor:
    """Return the constants that are zero, or all of them."""
    return const if everything else torch.where(const == 0, const, UNKNOWN)


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
