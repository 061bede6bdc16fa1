"""Operations that take parts or put them together: slices, concatenation, borders, repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.graph import operation
from ltpl.compaction.labels import FROZEN, Ids
from ltpl.compaction.operations.rule import Rule, is_float, sizes_of
from ltpl.compaction.values import UNKNOWN, Value, uniform


from ltpl.compaction.operations.shapes import Moved, is_symbol


class Expand(Rule):
    """Repeats along dimensions of size 1: as many as others there have channels."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Give new labels to what is repeated."""
        x = a.must(args["self"])
        sizes = sizes_of(node)
        ahead = len(sizes) - len(x.sizes)
        labels: list[Ids | None] = []
        for dim, size in enumerate(sizes):
            old = x.sizes[dim - ahead] if dim >= ahead else 1
            if isinstance(size, int) and size > 1 and isinstance(old, int) and old == 1:
                labels.append(a.labels.fresh(size))
            else:
                labels.append(x.labels[dim - ahead] if dim >= ahead else None)
        shape = [1 if ids is None else len(ids) for ids in labels]
        zero = x.zero.expand(shape) if x.zero.dim() <= len(shape) else x.zero
        if (other := a.value(args.get("other"))) is not None:
            for one, two in zip(labels, other.labels, strict=True):
                if one is not None and two is not None:
                    a.labels.tie(one, two)
        return Value(tuple(sizes), tuple(labels), x.const.expand(shape), zero)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What is read of any copy is read of the original."""
        a.want(args["self"], a.live(node))

    def literals(self, a: Analysis, node: Node, args: dict[str, Any], kept: Any) -> dict[str, Any]:
        """Return the new shape."""
        return resized(a, node, args, kept, "size")


def resized(
    a: Analysis, node: Node, args: dict[str, Any], kept: Any, name: str
) -> dict[str, Any]:
    """Return a shape among the arguments with the numbers of channels that stay."""
    if args.get(name) is None:
        return {}
    value, given = a.must(node), list(args[name])
    pairs = zip(given, value.sizes, kept.sizes(value), strict=True)
    new = [n if isinstance(g, int) and g == b and n != b else g for g, b, n in pairs]
    return {} if new == given else {name: new}


class Created(Rule):
    """A new tensor full of one number."""

    def __init__(self, number: float | None):
        self.number = number

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Give labels to every dimension that others may tie."""
        sizes = sizes_of(node)
        labels = [a.labels.fresh(s) if isinstance(s, int) and s > 1 else None for s in sizes]
        if not is_float(node):
            return Value.unknown(sizes, labels)
        number = self.number if self.number is not None else args.get("fill_value")
        shape = [1 if ids is None else len(ids) for ids in labels]
        level = float(number) if isinstance(number, (int, float)) else UNKNOWN
        return Value.known(sizes, labels, torch.full(shape, level, dtype=torch.float64))

    def literals(self, a: Analysis, node: Node, args: dict[str, Any], kept: Any) -> dict[str, Any]:
        """Return the new shape."""
        return resized(a, node, args, kept, "size")


class Concatenation(Rule):
    """Tensors one behind the other."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Line labels up along the dimension; tie them along the others."""
        parts = [a.must(x) for x in args["tensors"]]
        sizes = sizes_of(node)
        parts = [p for p in parts if len(p.sizes) == len(sizes)]
        dim = args["dim"] % len(sizes)
        labels: list[Ids | None] = []
        for d in range(len(sizes)):
            labels.append(_joined(parts, d) if d == dim else _tied(a, parts, d))
        shape = [1 if ids is None else len(ids) for ids in labels]
        const = _lined_up([p.const.double() if p.const.is_floating_point() else torch.full(p.const.shape, UNKNOWN).double() for p in parts], parts, dim, shape)
        zero = _lined_up([p.zero for p in parts], parts, dim, shape)
        return Value(tuple(sizes), tuple(labels), const, zero)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Each part is read where it went to."""
        value, live, start = a.must(node), a.live(node), 0
        dim = args["dim"] % len(value.sizes)
        for x in args["tensors"]:
            part = a.must(x)
            if len(part.sizes) != len(value.sizes):
                continue
            whole = value.labels[dim] is None
            a.want(x, live if whole else live.narrow(dim, start, part.sizes[dim]))
            start += 0 if whole else part.sizes[dim]


def _joined(parts: Sequence[Value], dim: int) -> Ids | None:
    if all(p.labels[dim] is None for p in parts):
        return None
    ids = [p.labels[dim] for p in parts]
    every = [np.full(p.sizes[dim], FROZEN) if x is None else x for p, x in zip(parts, ids, strict=True)]
    return np.concatenate(every)


def _tied(a: Analysis, parts: Sequence[Value], dim: int) -> Ids | None:
    labels = parts[0].labels[dim]
    for part in parts[1:]:
        if labels is not None or part.labels[dim] is not None:
            labels = a.tie(labels, part.labels[dim])
    return labels


def _lined_up(
    tensors: Sequence[Tensor], parts: Sequence[Value], dim: int, shape: Sequence[int]
) -> Tensor:
    if shape[dim] == 1 and any(p.sizes[dim] != 1 for p in parts):
        first = tensors[0]
        if first.dtype == torch.bool:
            joined = torch.stack([t.expand(shape) for t in tensors]).all(0)
        else:
            every = torch.stack([t.expand(shape) for t in tensors])
            joined = torch.where((every == every[:1]).all(0), every[0], UNKNOWN)
        return joined
    wide = [
        t.expand([p.sizes[d] if d == dim else s for d, s in enumerate(shape)])
        for t, p in zip(tensors, parts, strict=True)
    ]
    return torch.cat(wide, dim)


class Slice(Moved):
    """A range along one dimension."""

    def move(self, tensor: Tensor, args: dict[str, Any]) -> Tensor:
        """Cut the range out, where there are labels."""
        dim = args["dim"]
        if tensor.shape[dim] == 1:
            return tensor
        start, stop = args["start"] or 0, args["end"]
        index = [slice(None)] * tensor.dim()
        index[dim] = slice(start, stop, args["step"])
        return tensor[tuple(index)]

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Cut labels."""
        x = a.must(args["self"])
        dim = args["dim"] % len(x.sizes)
        if args["step"] != 1 or any(not isinstance(s, int) for s in (args["start"] or 0, args["end"] or 0)):
            x = a.only(x, [d for d in range(len(x.sizes)) if d != dim])
        labels = list(x.labels)
        ids = labels[dim]
        if ids is not None and len(ids) > 1:
            labels[dim] = ids[slice(args["start"] or 0, args["end"], 1)]
        const, zero = self.move(x.const, args), self.move(x.zero, args)
        return Value(tuple(sizes_of(node)), tuple(labels), const, zero)

    def literals(self, a: Analysis, node: Node, args: dict[str, Any], kept: Any) -> dict[str, Any]:
        """Return the new range."""
        x = a.must(args["self"])
        dim = args["dim"] % len(x.sizes)
        ids = x.labels[dim]
        if ids is None or args["step"] != 1:
            return {}
        stays, new = kept(ids), {}
        for name in ("start", "end"):
            edge = args[name]
            if isinstance(edge, int) and 0 != edge and edge < len(ids):
                after = int(stays[:edge].sum()) if edge > 0 else -int(stays[edge:].sum())
                if after != edge:
                    new[name] = after
        return new


class Split(Rule):
    """Several ranges along one dimension."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Cut labels; parts of a number given stay equally wide."""
        x = a.must(args["self"])
        dim = args["dim"] % len(x.sizes)
        if operation(node) == "unbind":
            x = a.only(x, [d for d in range(len(x.sizes)) if d != dim])
            labels = [ids for d, ids in enumerate(x.labels) if d != dim]
            one = (x.const.squeeze(dim), x.zero.squeeze(dim))
            return [Value(tuple(v.shape), tuple(labels), *one) for v in node.meta["val"]]
        widths = [v.shape[dim] for v in node.meta["val"]]
        ids = x.labels[dim]
        if ids is not None and operation(node) == "chunk":
            if len(set(widths)) > 1:
                x = a.only(x, [d for d in range(len(x.sizes)) if d != dim])
                ids = None
            else:
                rows = ids.reshape(len(widths), -1)
                a.labels.tie(rows, rows[:1])
        parts, start = [], 0
        for width, v in zip(widths, node.meta["val"], strict=True):
            cut = [
                (ids[start : start + width] if ids is not None else None) if d == dim else own
                for d, own in enumerate(x.labels)
            ]
            tensors = [
                t if ids is None else t.narrow(dim, start, width) for t in (x.const, x.zero)
            ]
            parts.append(Value(tuple(v.shape), tuple(cut), *tensors))
            start += width
        return parts

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Each part is read where it came from."""
        x = a.must(args["self"])
        dim = args["dim"] % len(x.sizes)
        need, start = torch.zeros(x.const.shape, dtype=torch.bool), 0
        for part, asked in zip(a.values[node], a.needs.get(node, []), strict=False):
            if operation(node) == "unbind":
                need |= asked.unsqueeze(dim)
            elif part.labels[dim] is None:
                need |= asked.expand(need.shape) if asked.shape[dim] == 1 else asked.any(dim, keepdim=True)
            else:
                need.narrow(dim, start, part.sizes[dim]).logical_or_(asked)
                start += part.sizes[dim]
        a.want(args["self"], need)

    def literals(self, a: Analysis, node: Node, args: dict[str, Any], kept: Any) -> dict[str, Any]:
        """Return the new widths."""
        for name in ("split_sizes", "split_size"):
            given = args.get(name)
            dim = args["dim"]
            new = [kept.sizes(part)[dim] for part in a.values[node]]
            if isinstance(given, int):
                old = a.values[node][0].sizes[dim]
                return {} if new[0] == old else {name: new[0]}
            if given is not None:
                return {} if new == list(given) else {name: new}
        return {}


class Item(Rule):
    """One part of a split."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Return what is known of the part."""
        parts = a.values.get(args["0"])
        return parts[args["1"]] if isinstance(parts, list) else None

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Keep what is read for the split."""
        parts = a.values.get(args["0"])
        if isinstance(parts, list) and a.value(node) is not None:
            empty = [torch.zeros(p.const.shape, dtype=torch.bool) for p in parts]
            asked = a.needs.setdefault(args["0"], empty)
            asked[args["1"]] = asked[args["1"]] | a.live(node)


class Pad(Rule):
    """A border; along channels, as in the option-A shortcut, new channels of one number."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Give new labels to the border."""
        x = a.must(args["self"])
        plain = args.get("mode", "constant") == "constant"
        number = float(args.get("value") or 0)
        labels, const, zero = list(x.labels), x.const, x.zero
        for dim, (before, behind) in borders(args["pad"], len(x.sizes)):
            if labels[dim] is None or not plain or min(before, behind) < 0:
                x = a.only(replace(x, labels=tuple(labels), const=const, zero=zero), [d for d in range(len(labels)) if d != dim])
                labels, const, zero = list(x.labels), x.const, x.zero
                if plain:
                    const = torch.where(const == number, const, UNKNOWN)
                    zero = zero & (number == 0)
                continue
            new = [a.labels.fresh(before), labels[dim], a.labels.fresh(behind)]
            labels[dim] = np.concatenate([n for n in new if n is not None])
            pads = [0, 0] * (len(labels) - 1 - dim) + [before, behind]
            const = torch.nn.functional.pad(const.double(), pads, value=number)
            zero = torch.nn.functional.pad(zero, pads, value=number == 0)
        return Value(tuple(sizes_of(node)), tuple(labels), const, zero)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """The operand is read inside the border."""
        x, live = a.must(args["self"]), a.live(node)
        for dim, (before, _) in borders(args["pad"], len(x.sizes)):
            if live.shape[dim] > 1:
                live = live.narrow(dim, before, x.sizes[dim])
        a.want(args["self"], live)

    def literals(self, a: Analysis, node: Node, args: dict[str, Any], kept: Any) -> dict[str, Any]:
        """Return the new border."""
        value, new = a.must(node), list(args["pad"])
        for dim, (before, behind) in borders(args["pad"], len(value.sizes)):
            ids = value.labels[dim]
            if ids is None:
                continue
            stays, place = kept(ids), 2 * (len(value.sizes) - 1 - dim)
            new[place] = int(stays[:before].sum())
            new[place + 1] = int(stays[len(stays) - behind :].sum()) if behind else 0
        return {} if new == list(args["pad"]) else {"pad": new}


def borders(pad: Sequence[int], dims: int) -> list[tuple[int, tuple[int, int]]]:
    """Return dimension, and width before and behind, of each border that is there."""
    pairs = [(dims - 1 - i // 2, (pad[i], pad[i + 1])) for i in range(0, len(pad), 2)]
    return [(dim, pair) for dim, pair in pairs if pair != (0, 0)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("expand", "expand_as"), Expand()),
    **dict.fromkeys(("new_zeros", "zeros"), Created(0)),
    **dict.fromkeys(("new_ones", "ones"), Created(1)),
    **dict.fromkeys(("new_full", "full"), Created(None)),
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unbind"), Split()),
    **dict.fromkeys(("slice", "narrow"), Slice()),
    **dict.fromkeys(("pad", "constant_pad_nd"), Pad()),
    "cat": Concatenation(),
    "getitem": Item(),
}
