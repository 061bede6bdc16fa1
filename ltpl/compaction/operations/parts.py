"""Operations that take parts of a tensor: slices, splits, one index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.graph import operation
from ltpl.compaction.operations.rule import Rule, sizes_of
from ltpl.compaction.operations.shapes import Moved
from ltpl.compaction.values import Value


class Slice(Moved):
    """A range along one dimension."""

    def move(self, tensor: Tensor, args: dict[str, Any]) -> Tensor:
        """Cut the range out, where there are labels."""
        dim = args["dim"]
        if tensor.shape[dim] == 1:
            return tensor
        index = [slice(None)] * tensor.dim()
        index[dim] = slice(*_edges(args))
        return tensor[tuple(index)]

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Cut labels."""
        x = a.must(args["self"])
        dim = args["dim"] % len(x.sizes)
        start, end = _edges(args)
        given = all(isinstance(edge, int) for edge in (start, end or 0))
        if args.get("step", 1) != 1 or not given or "length" in args:
            x = a.only(x, [d for d in range(len(x.sizes)) if d != dim])
        labels = list(x.labels)
        ids = labels[dim]
        if ids is not None:
            labels[dim] = ids[start:end]
        const, zero = self.move(x.const, args), self.move(x.zero, args)
        return Value(tuple(sizes_of(node)), tuple(labels), const, zero)

    def literals(self, a: Analysis, node: Node, args: dict[str, Any], kept: Any) -> dict[str, Any]:
        """Return the new range."""
        x = a.must(args["self"])
        ids = x.labels[args["dim"] % len(x.sizes)]
        if ids is None or args.get("step", 1) != 1 or "length" in args:
            return {}
        stays, new = kept(ids), {}
        for name in ("start", "end"):
            edge = args[name]
            if isinstance(edge, int) and edge != 0 and -len(ids) < edge < len(ids):
                after = int(stays[:edge].sum()) if edge > 0 else -int(stays[edge:].sum())
                after = int(stays.sum()) if edge < 0 and not after else after  # -0 is no end
                if after != edge:
                    new[name] = after
        return new


def _edges(args: dict[str, Any]) -> tuple[Any, Any]:
    """Return where a range begins and ends."""
    start = args["start"] or 0
    if "length" in args:
        return start, start + args["length"] or None
    return start, args["end"]


class Split(Rule):
    """Several ranges along one dimension."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Cut labels; parts whose number is given stay equally wide."""
        x = a.must(args["self"])
        dim = args["dim"] % len(x.sizes)
        results = node.meta["val"]
        if operation(node) == "unbind":
            x = a.only(x, [d for d in range(len(x.sizes)) if d != dim])
            labels = [ids for d, ids in enumerate(x.labels) if d != dim]
            one = (x.const.squeeze(dim), x.zero.squeeze(dim))
            return [Value(tuple(v.shape), tuple(labels), *one) for v in results]
        widths = [v.shape[dim] for v in results]
        if not self._even(a, operation(node), x, dim, widths):
            x = a.only(x, [d for d in range(len(x.sizes)) if d != dim])
        ids = x.labels[dim]
        parts, start = [], 0
        for width, v in zip(widths, results, strict=True):
            labels = list(x.labels)
            const, zero = x.const, x.zero
            if ids is not None:
                labels[dim] = ids[start : start + width]
                const, zero = (t.narrow(dim, start, width) for t in (const, zero))
            parts.append(Value(tuple(v.shape), tuple(labels), const, zero))
            start += width
        return parts

    def _even(self, a: Analysis, name: str, x: Value, dim: int, widths: list[int]) -> bool:
        """Let parts shrink alike where the code says how many there are, if it can be."""
        ids = x.labels[dim]
        if ids is None or name not in ("chunk", "tensor_split"):
            return True
        if len(set(widths)) > 1:
            return False
        rows = ids.reshape(len(widths), -1)
        a.labels.tie(rows, rows[:1])
        return True

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Each part is read where it came from."""
        x = a.must(args["self"])
        dim = args["dim"] % len(x.sizes)
        need, start = torch.zeros(x.const.shape, dtype=torch.bool), 0
        for part, asked in zip(a.values[node], a.needs.get(node, []), strict=False):
            if operation(node) == "unbind":
                need = need | asked.unsqueeze(dim)
            elif need.shape[dim] == 1 or x.labels[dim] is None:
                need = need | asked
            else:
                need.narrow(dim, start, part.sizes[dim]).logical_or_(asked)
                start += part.sizes[dim]
        a.want(args["self"], need)

    def literals(self, a: Analysis, node: Node, args: dict[str, Any], kept: Any) -> dict[str, Any]:
        """Return the new widths."""
        for name in ("split_sizes", "split_size"):
            given = args.get(name)
            new = [kept.sizes(part)[args["dim"]] for part in a.values[node]]
            if isinstance(given, int):
                old = [part.sizes[args["dim"]] for part in a.values[node]]
                short = all(width == new[0] for width in new[:-1]) and new[-1] <= new[0]
                return {} if new == old else {name: new[0] if short else new}
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


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("chunk", "split", "split_with_sizes", "unsafe_chunk", "unbind", "tensor_split"), Split()
    ),
    **dict.fromkeys(("slice", "narrow"), Slice()),
    "getitem": Item(),
}
