"""Operations that take a dimension away, or add one."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.graph import operation
from ltpl.compaction.operations.rule import Rule, sizes_of
from ltpl.compaction.values import Value


class Select(Rule):
    """One slice of a dimension, which is gone."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Keep that dimension whole."""
        x = a.must(args["self"])
        dim = args["dim"] % len(x.sizes)
        x = a.only(x, [d for d in range(len(x.sizes)) if d != dim])
        labels = [ids for d, ids in enumerate(x.labels) if d != dim]
        return Value(
            tuple(sizes_of(node)), tuple(labels), x.const.squeeze(dim), x.zero.squeeze(dim)
        )

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What is read of the slice is read of the operand."""
        dim = args["dim"] % len(a.must(args["self"]).sizes)
        a.want(args["self"], a.live(node).unsqueeze(dim))


class Squeeze(Rule):
    """Dimensions of size 1 go or come."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Leave out, or put in, their labels."""
        x = a.must(args["self"])
        if operation(node) == "unsqueeze":
            dim = args["dim"] % (len(x.sizes) + 1)
            labels = [*x.labels[:dim], None, *x.labels[dim:]]
            const, zero = x.const.unsqueeze(dim), x.zero.unsqueeze(dim)
        else:
            x = a.only(x, [d for d, s in enumerate(x.sizes) if not (isinstance(s, int) and s == 1)])
            gone = self.gone(x, args)
            labels = [ids for d, ids in enumerate(x.labels) if d not in gone]
            const, zero = x.const.squeeze(gone), x.zero.squeeze(gone)
        return Value(tuple(sizes_of(node)), tuple(labels), const, zero)

    def gone(self, x: Value, args: dict[str, Any]) -> tuple[int, ...]:
        """Return which dimensions go."""
        given = args.get("dim")
        dims = (
            range(len(x.sizes)) if given is None else [given] if isinstance(given, int) else given
        )
        dims = [d % len(x.sizes) for d in dims]
        return tuple(d for d in dims if isinstance(x.sizes[d], int) and x.sizes[d] == 1)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """What is read of the result is read of the operand."""
        x, live = a.must(args["self"]), a.live(node)
        if operation(node) == "unsqueeze":
            live = live.any(args["dim"] % (len(x.sizes) + 1))
        else:
            for dim in sorted(self.gone(x, args)):
                live = live.unsqueeze(dim)
        a.want(args["self"], live)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("squeeze", "unsqueeze"), Squeeze()),
    "select": Select(),
}
