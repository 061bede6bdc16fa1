"""Products of matrices, or of stacks of them; attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.labels import Ids
from ltpl.compaction.operations.reading import last
from ltpl.compaction.operations.rule import Fixed, Rule, sizes_of
from ltpl.compaction.values import UNKNOWN, Value


class Product(Rule):
    """A product of matrices: rows of the left and columns of the right pass.

    Args:
        right: What the schema calls the right factor.
        left: What it calls the left one.
    """

    def __init__(self, right: str = "other", left: str = "self"):
        self.names = (left, right)

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Tie what is summed over; zero where all terms are."""
        left, right = (a.must(args[name]) for name in self.names)
        if self._vectors(left, right):
            return Fixed().forward(a, node, args)
        left, right = a.only(left, [-2, -1]), a.only(right, [-2, -1])
        a.tie(left.labels[-1], right.labels[-2])
        some, others = _terms(left, right)
        sizes = sizes_of(node)
        labels: list[Ids | None] = [None] * len(sizes)
        labels[-2:] = left.labels[-2], right.labels[-1]
        const = torch.where(some.double() @ others.double() == 0, 0.0, UNKNOWN).double()
        return Value.known(sizes, labels, const.view([1] * (len(sizes) - 2) + list(const.shape)))

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """A term is read if neither factor is zero; its place in the sum stays."""
        left, right = (a.must(args[name]) for name in self.names)
        if self._vectors(left, right):
            Fixed().backward(a, node, args)
            return
        live = a.live(node)
        while live.dim() > 2:
            live = live.any(0)
        some, others = _terms(left.within([-2, -1]), right.within([-2, -1]))
        read_left = some & ((live.double() @ others.double().t()) > 0)
        read_right = others & ((some.double().t() @ live.double()) > 0)
        a.want(args[self.names[0]], read_left)
        a.want(args[self.names[1]], read_right)
        a.veto(left.labels[-1], read_right.any(1).expand(some.shape[1]))
        a.veto(right.labels[-2], read_right.any(1).expand(some.shape[1]))

    @staticmethod
    def _vectors(left: Value, right: Value) -> bool:
        return len(left.sizes) < 2 or len(right.sizes) < 2


def _terms(left: Value, right: Value) -> tuple[Tensor, Tensor]:
    """Return where two matrices are not zero, along the sum in full if labelled on one side."""
    some, others = (~(v.zero | (v.const == 0)) for v in (left, right))
    some, others = some.reshape(some.shape[-2:]), others.reshape(others.shape[-2:])
    terms = max(some.shape[1], others.shape[0])
    return some.expand(-1, terms), others.expand(terms, -1)


class Sum(Product):
    """`bias + left @ right`."""

    def __init__(self) -> None:
        super().__init__("mat2", "mat1")

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Tie the bias to the columns."""
        value, bias = super().forward(a, node, args), a.must(args["self"])
        if args["beta"] != 1 or args["alpha"] != 1 or len(bias.sizes) != 1:
            a.freeze([bias, value])
            return Value.unknown(value.sizes)
        labels = (value.labels[0], a.tie(bias.labels[0], value.labels[1]))
        const = value.const + bias.const.double()
        return replace(Value.known(value.sizes, labels, const), zero=value.zero & bias.zero)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """The bias is read too."""
        super().backward(a, node, args)
        a.want(args["self"], torch.ones([1] * len(a.must(args["self"]).sizes), dtype=torch.bool))


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


RULES: dict[str, Rule] = {
    "matmul": Product(),
    "mm": Product("mat2"),
    "bmm": Product("mat2"),
    "addmm": Sum(),
    "scaled_dot_product_attention": Attention(),
}
