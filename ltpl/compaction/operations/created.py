"""Operations that make something new or repeat what is there."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.labels import Ids
from ltpl.compaction.operations.rule import Rule, is_float, sizes_of
from ltpl.compaction.values import UNKNOWN, Value, compressed


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
        if (other := a.value(args.get("other"))) is not None:
            labels = [
                None if own is None else a.tie(own, theirs)
                for own, theirs in zip(labels, other.labels, strict=True)
            ]
        shape = compressed(labels)
        return Value(tuple(sizes), tuple(labels), x.const.expand(shape), x.zero.expand(shape))

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What is read of any copy is read of the original."""
        a.want(args["self"], a.live(node))

    def literals(self, a: Analysis, node: Node, args: dict[str, Any], kept: Any) -> dict[str, Any]:
        """Return the new shape."""
        return resized(a, node, args, kept, "size")


def resized(a: Analysis, node: Node, args: dict[str, Any], kept: Any, name: str) -> dict[str, Any]:
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
        level = float(number) if isinstance(number, (int, float)) else UNKNOWN
        return Value.known(sizes, labels, torch.full(compressed(labels), level).double())

    def literals(self, a: Analysis, node: Node, args: dict[str, Any], kept: Any) -> dict[str, Any]:
        """Return the new shape."""
        return resized(a, node, args, kept, "size")


class Repeat(Rule):
    """Copies one behind the other: dimensions that are repeated stay whole."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Keep the labels of what is not repeated."""
        x = a.must(args["self"])
        times = list(args["repeats"] if "repeats" in args else args["dims"])
        times = [1] * (len(x.sizes) - len(times)) + times
        ahead = len(times) - len(x.sizes)
        once = [isinstance(n, int) and n == 1 for n in times[ahead:]]
        x = a.only(x, [dim for dim, single in enumerate(once) if single])
        front = [1] * ahead
        const, zero = (t.reshape([*front, *t.shape]) for t in (x.const, x.zero))
        return Value(tuple(sizes_of(node)), (*[None] * ahead, *x.labels), const, zero)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What is read of any copy is read of the original."""
        a.want(args["self"], a.live(node))


RULES: dict[str, Rule] = {
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), Expand()),
    **dict.fromkeys(("new_zeros", "zeros"), Created(0)),
    **dict.fromkeys(("new_ones", "ones"), Created(1)),
    **dict.fromkeys(("new_full", "full"), Created(None)),
    **dict.fromkeys(("repeat", "tile"), Repeat()),
}
