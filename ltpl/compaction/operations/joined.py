"""Operations that put tensors side by side: concatenation, and borders of one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.labels import FROZEN, Ids
from ltpl.compaction.operations.rule import Rule, sizes_of
from ltpl.compaction.values import UNKNOWN, Value, compressed


class Concatenation(Rule):
    """Tensors one behind the other."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Line labels up along the dimension; tie them along the others."""
        sizes = sizes_of(node)
        dim = args["dim"] % len(sizes)
        parts = [v for x in args["tensors"] if len((v := a.must(x)).sizes) == len(sizes)]
        if any(p.sizes[dim] is None for p in parts):
            parts = [a.only(p, [d for d in range(len(sizes)) if d != dim]) for p in parts]
        labels = [_joined(parts, d) if d == dim else _tied(a, parts, d) for d in range(len(sizes))]
        const = _lined_up([_number(p) for p in parts], parts, dim, labels)
        zero = _lined_up([p.zero.double() for p in parts], parts, dim, labels) == 1
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


def _number(value: Value) -> Tensor:
    if value.const.is_floating_point():
        return value.const.double()
    return torch.full(value.const.shape, UNKNOWN, dtype=torch.float64)


def _joined(parts: Sequence[Value], dim: int) -> Ids | None:
    if all(p.labels[dim] is None for p in parts):
        return None
    ids = [(p.labels[dim], p.sizes[dim]) for p in parts]
    return np.concatenate([np.full(size, FROZEN) if x is None else x for x, size in ids])


def _tied(a: Analysis, parts: Sequence[Value], dim: int) -> Ids | None:
    labels = parts[0].labels[dim]
    for part in parts[1:]:
        labels = a.tie(labels, part.labels[dim])
    return labels


def _lined_up(
    tensors: Sequence[Tensor], parts: Sequence[Value], dim: int, labels: Sequence[Ids | None]
) -> Tensor:
    """Concatenate what is known of the parts; without labels, what differs is not known."""
    shape = compressed(labels)
    if labels[dim] is None:
        every = torch.stack([t.expand(shape) for t in tensors])
        return torch.where((every == every[:1]).all(0), every[0], UNKNOWN)
    wide = [
        t.expand([p.sizes[d] if d == dim else s for d, s in enumerate(shape)])
        for t, p in zip(tensors, parts, strict=True)
    ]
    return torch.cat(wide, dim)


class Pad(Rule):
    """A border; along channels, as in the option-A shortcut, new channels of one number."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Give new labels to the border."""
        x = a.must(args["self"])
        plain = args.get("mode", "constant") == "constant"
        number = float(args.get("value") or 0)
        for dim, (before, behind) in borders(args["pad"], len(x.sizes)):
            ids = x.labels[dim]
            if ids is not None and plain and min(before, behind) >= 0:
                new = np.concatenate([a.labels.fresh(before), ids, a.labels.fresh(behind)])
                labels = [new if d == dim else own for d, own in enumerate(x.labels)]
                pads = [0, 0] * (len(labels) - 1 - dim) + [before, behind]
                const = torch.nn.functional.pad(x.const.double(), pads, value=number)
                zero = torch.nn.functional.pad(x.zero, pads, value=number == 0)
            else:
                x = a.only(x, [d for d in range(len(x.sizes)) if d != dim])
                labels, const, zero = list(x.labels), x.const, x.zero
                if plain:
                    const = torch.where(const == number, const, UNKNOWN)
                    zero = zero & (number == 0)
            sizes = [None if d == dim else size for d, size in enumerate(x.sizes)]
            x = Value(tuple(sizes), tuple(labels), const, zero)
        return replace(x, sizes=tuple(sizes_of(node)), parameter=None)

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
    """Return dimension, and width before and behind, of each border that is there.

    Example:
        >>> borders((0, 0, 1, 2), 3)
        [(1, (1, 2))]
    """
    pairs = [(dims - 1 - i // 2, (pad[i], pad[i + 1])) for i in range(0, len(pad), 2)]
    return [(dim, pair) for dim, pair in pairs if pair != (0, 0)]


RULES: dict[str, Rule] = {
    "cat": Concatenation(),
    **dict.fromkeys(("pad", "constant_pad_nd"), Pad()),
}
