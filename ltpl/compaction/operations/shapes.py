"""Operations that only move elements: views, transposes, dimensions that come or go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.graph import operation
from ltpl.compaction.labels import FROZEN, Ids
from ltpl.compaction.operations.rule import Rule, sizes_of
from ltpl.compaction.values import Value, uniform


class Moved(Rule):
    """The result consists of slices of one operand, moved."""

    operand = "self"

    def move(self, tensor: Tensor, args: dict[str, Any]) -> Tensor:
        """Do to constants and needs, which have size 1 where there are no labels, what is done."""
        raise NotImplementedError

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """A slice is read where it went to."""
        x = a.must(args[self.operand])
        shape = list(x.const.shape)
        moved = self.move(torch.arange(math.prod(shape)).view(shape), args)
        need = torch.zeros(math.prod(shape), dtype=torch.bool)
        need[moved[a.live(node).expand(moved.shape)]] = True
        a.want(args[self.operand], need.view(shape))


class Transpose(Moved):
    """Dimensions change their order."""

    def move(self, tensor: Tensor, args: dict[str, Any]) -> Tensor:
        """Permute."""
        if "dims" in args:
            return tensor.permute(args["dims"])
        if "dim0" in args:
            return tensor.transpose(args["dim0"], args["dim1"])
        return tensor.t()

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Permute labels too."""
        x = a.must(args["self"])
        order = list(range(len(x.sizes)))
        if "dims" in args:
            order = [order[d] for d in args["dims"]]
        elif len(order) > 1:
            one, two = order[args.get("dim0", 0)], order[args.get("dim1", 1)]
            order[one], order[two] = two, one
        labels = tuple(x.labels[d] for d in order)
        const, zero = self.move(x.const, args), self.move(x.zero, args)
        return Value(tuple(sizes_of(node)), labels, const, zero)


class View(Rule):
    """A new shape: dimensions are merged and split."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Merge labels, then split them; of several dimensions only one keeps labels."""
        x = a.must(args["self"])
        sizes = sizes_of(node)
        labels: list[Ids | None] = []
        keep: list[int] = []
        for ins, outs in factors(x.sizes, sizes):
            chosen = _source(x, ins)
            if chosen is not None and len(ins) == len(outs) == 1:
                keep.append(chosen)
                labels.append(x.labels[chosen])
                continue
            if chosen is not None and _splits(x, ins, outs, sizes):
                keep.append(chosen)
                labels += _remade(a, x, ins, outs, sizes, chosen)
                continue
            labels += [None] * len(outs)
        x = a.only(x, keep)
        value = Value.unknown(sizes, labels)
        const = _reshaped(x.const, x, value, const=True)
        zero = _reshaped(x.zero, x, value, const=False)
        return Value(tuple(sizes), tuple(labels), const, zero)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """A slice is read if any of its elements is, wherever it went."""
        x, value = a.must(args["self"]), a.must(node)
        need = a.live(node)
        for ins, outs in reversed(factors(x.sizes, value.sizes)):
            need = _block(need, outs, [value.sizes[d] for d in outs], [x.sizes[d] for d in ins])
        a.want(args["self"], need)

    def literals(self, a: Analysis, node: Node, args: dict[str, Any], kept: Any) -> dict[str, Any]:
        """Return the new shape."""
        value = a.must(node)
        name = "sizes" if operation(node) == "unflatten" else "size" if "size" in args else "shape"
        given = args.get(name)
        if given is None:
            return {}
        start = args["dim"] % len(a.must(args["self"]).sizes) if name == "sizes" else 0
        after = kept.sizes(value)[start : start + len(given)]
        before = value.sizes[start : start + len(given)]
        new = [
            n if isinstance(g, int) and g != -1 and n != b else g
            for g, b, n in zip(given, before, after, strict=True)
        ]
        return {} if new == list(given) else {name: new}


def factors(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
    """Return which dimensions of the one shape make which of the other, as small as can be.

    Example:
        >>> factors([2, 12, 5, 5], [2, 3, 4, 25])
        [([0], [0]), ([1], [1, 2]), ([2, 3], [3])]
    """
    groups: list[tuple[list[int], list[int]]] = []
    tail: list[tuple[list[int], list[int]]] = []
    i, j, m, n = 0, 0, len(before), len(after)
    while i < m and j < n and (is_symbol(before[i]) or is_symbol(after[j])):
        groups.append(([i], [j]))
        i, j = i + 1, j + 1
    while m > i and n > j and (is_symbol(before[m - 1]) or is_symbol(after[n - 1])):
        m, n = m - 1, n - 1
        tail.insert(0, ([m], [n]))
    while i < m or j < n:
        ins, outs, left, right = [], [], 1, 1
        if i < m:
            ins, left, i = [i], before[i], i + 1
        if j < n:
            outs, right, j = [j], after[j], j + 1
        while left != right:
            if (left < right and i < m) or j >= n:
                ins, left, i = [*ins, i], left * before[i], i + 1
            else:
                outs, right, j = [*outs, j], right * after[j], j + 1
        if ins and outs:
            groups.append((ins, outs))
        elif groups:
            groups[-1] = (groups[-1][0] + ins, groups[-1][1] + outs)
        else:
            tail.insert(0, (ins, outs))
    return groups + tail


def is_symbol(size: Any) -> bool:
    """Whether a size depends on data."""
    return not isinstance(size, int)


def _source(x: Value, ins: Sequence[int]) -> int | None:
    """Return the dimension of a group that keeps its labels: the largest that has some."""
    tracked = [d for d in ins if x.labels[d] is not None and x.sizes[d] > 1]
    free = [d for d in tracked if bool(np.any(x.labels[d] != FROZEN))] or tracked
    return free[-1] if free else None


def _splits(x: Value, ins: Sequence[int], outs: Sequence[int], sizes: Sequence[Any]) -> bool:
    return not any(is_symbol(s) for s in [*(x.sizes[d] for d in ins), *(sizes[d] for d in outs)])


def _remade(
    a: Analysis,
    x: Value,
    ins: Sequence[int],
    outs: Sequence[int],
    sizes: Sequence[Any],
    chosen: int,
) -> list[Ids | None]:
    """Return labels of the dimensions that a group becomes."""
    ids = x.labels[chosen]
    assert ids is not None
    shape = [1] * len(ins)
    shape[list(ins).index(chosen)] = len(ids)
    merged = np.broadcast_to(ids.reshape(shape), [x.sizes[d] for d in ins]).reshape(-1)
    new = [sizes[d] for d in outs]
    wide = [i for i, size in enumerate(new) if size > 1]
    if not wide:
        a.labels.freeze(ids)
        return [None] * len(new)
    block = merged.reshape(new)
    target = _varying(block, wide)
    rows = np.moveaxis(block, target, 0).reshape(new[target], -1)
    a.labels.tie(rows, rows[:, :1])
    return [rows[:, 0] if i == target else None for i in range(len(new))]


def _varying(block: Ids, wide: Sequence[int]) -> int:
    """Return the dimension along which alone labels vary; else the last."""
    for dim in wide:
        rows = np.moveaxis(block, dim, 0).reshape(block.shape[dim], -1)
        if bool((rows == rows[:, :1]).all()):
            return dim
    return wide[-1]


def _reshaped(tensor: Tensor, x: Value, value: Value, const: bool) -> Tensor:
    """Return constants or zeros in the new shape; what differs inside a slice is not constant."""
    for ins, outs in reversed(factors(x.sizes, value.sizes)):
        new = [value.sizes[d] for d in outs]
        if _is_size_one(tensor, ins):
            shape = [*tensor.shape[: ins[0] if ins else 0], *[1] * len(new)]
            tensor = tensor.reshape([*shape, *tensor.shape[(ins[-1] + 1) if ins else 0 :]])
            continue
        tensor = tensor.expand([s if d in ins else -1 for d, s in enumerate(_full(tensor, x, ins))])
        front, back = list(tensor.shape[: ins[0]]), list(tensor.shape[ins[-1] + 1 :])
        tensor = tensor.reshape([*front, *new, *back])
        for offset, dim in enumerate(outs):
            if value.labels[dim] is None and new[offset] != 1:
                tensor = _collapsed(tensor, ins[0] + offset, const)
    return tensor.expand([1 if ids is None else len(ids) for ids in value.labels])


def _full(tensor: Tensor, x: Value, ins: Sequence[int]) -> list[int]:
    return [x.sizes[d] if d in ins else s for d, s in enumerate(tensor.shape)]


def _is_size_one(tensor: Tensor, dims: Sequence[int]) -> bool:
    return all(tensor.shape[d] == 1 for d in dims)


def _collapsed(tensor: Tensor, dim: int, const: bool) -> Tensor:
    if not const:
        return tensor.all(dim, keepdim=True)
    rows = tensor.movedim(dim, -1)
    flat = uniform(rows.reshape(-1, rows.shape[-1]))
    return flat.view(rows.shape[:-1]).unsqueeze(dim)


def _block(need: Tensor, outs: Sequence[int], new: Sequence[Any], old: Sequence[Any]) -> Tensor:
    """Turn a group of dimensions of a need back into those that it was made of."""
    if not outs:
        return need.reshape([*need.shape, *[1] * len(old)])
    start, stop = outs[0], outs[-1] + 1
    front, back = list(need.shape[:start]), list(need.shape[stop:])
    if all(need.shape[d] == 1 for d in outs):
        return need.reshape([*front, *[1] * len(old), *back])
    return need.expand([*front, *new, *back]).reshape([*front, *old, *back])


RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "_unsafe_view"), View()),
    **dict.fromkeys(("transpose", "permute", "t", "numpy_T"), Transpose()),
}
