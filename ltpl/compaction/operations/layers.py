"""Linear layers and embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ltpl.compaction.analysis import Analysis, Fold
from ltpl.compaction.labels import Ids
from ltpl.compaction.operations.reading import (
    along,
    ask,
    can_fold,
    last,
    outputs,
    reading,
    tie_bias,
    zero_or,
)
from ltpl.compaction.operations.rule import Rule, sizes_of
from ltpl.compaction.values import UNKNOWN, Value


class Linear(Rule):
    """`x @ weight.T + bias` over the last dimension."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Tie inputs to columns and outputs to rows."""
        x, weight, bias = a.must(args["input"]), a.must(args["weight"]), a.value(args["bias"])
        rows, columns = weight.labels
        a.tie(x.labels[-1], columns)
        tie_bias(a, bias, rows)
        known = zero_or(x.along(-1), can_fold(a, node, args))
        const = outputs(weight.const.expand(weight.sizes), self._zero(weight), known, bias)
        return last(sizes_of(node), x, rows, const)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Read the inputs that meet a living weight of an output that is read."""
        x, weight = a.must(args["input"]), a.must(args["weight"])
        live = along(a.live(node), -1, weight.sizes[0])
        foldable = can_fold(a, node, args)
        ask(a, args["input"], x, -1, reading(~self._zero(weight), live), foldable)
        a.want(args["weight"], live[:, None])
        a.want(args["bias"], live)
        if foldable and x.labels[-1] is not None:
            assert weight.parameter is not None
            a.folds.append(Fold(weight.parameter, x.labels[-1], x.along(-1)))

    @staticmethod
    def _zero(weight: Value) -> torch.Tensor:
        return weight.zero.expand(weight.sizes)


class Embedding(Rule):
    """Rows of a matrix, by number."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Every row stays; columns are the features."""
        weight = a.must(args["weight"])
        a.freeze(weight, [0])
        sizes = sizes_of(node)
        labels: list[Ids | None] = [*[None] * (len(sizes) - 1), weight.labels[1]]
        const = torch.where(weight.zero.all(0), 0.0, UNKNOWN).double()
        return Value.known(sizes, labels, const.view([1] * (len(sizes) - 1) + [-1]))

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Columns are read where the result is."""
        a.want(args["weight"], along(a.live(node), -1, a.must(args["weight"]).sizes[1])[None])


RULES: dict[str, Rule] = {"linear": Linear(), "embedding": Embedding()}
