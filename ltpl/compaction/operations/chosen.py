"""Channels that a normalisation layer selects, in a network that was compacted before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.operations.reduce import Gather
from ltpl.compaction.operations.rule import Rule, sizes_of
from ltpl.compaction.rewrite import Selecting
from ltpl.compaction.values import Value


class Chosen(Gather):
    """Slices by numbers that are stored: all of those stay, unless compaction has chosen them."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Let what is selected go on its own, as long as the input has it."""
        numbers = _numbers(a, args)
        x = a.must(args["self"])
        ids = x.labels[args["dim"] % len(x.sizes)] if numbers is not None else None
        if numbers is None or ids is None:
            for one in node.all_input_nodes[1:]:
                a.freeze(a.value(one))
            return super().forward(a, node, args)
        dim = args["dim"] % len(x.sizes)
        labels = list(x.labels)
        new = labels[dim] = a.labels.fresh(len(numbers))
        a.implied.append((ids[numbers.numpy()], new, ""))
        a.tie(new, a.must(args["index"]).labels[0])
        const, zero = x.const.index_select(dim, numbers), x.zero.index_select(dim, numbers)
        return Value(tuple(sizes_of(node)), tuple(labels), const, zero)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Read what is selected and read."""
        numbers, x = _numbers(a, args), a.must(args["self"])
        dim = args["dim"] % len(x.sizes) if numbers is not None else 0
        if numbers is None or x.labels[dim] is None:
            super().backward(a, node, args)
            return
        live = a.live(node)
        sizes = [*live.shape]
        sizes[dim] = x.sizes[dim]
        need = torch.zeros(sizes, dtype=torch.bool)
        a.want(args["self"], need.index_copy(dim, numbers, live))


def _numbers(a: Analysis, args: dict[str, Any]) -> Tensor | None:
    """Return what a normalisation layer selects; None for other numbers."""
    index = a.value(args.get("index"))
    name = None if index is None else index.parameter
    if name is None or "dim" not in args:
        return None
    layer = a.model.get_submodule(name.rpartition(".")[0])
    return a.tensors[name] if isinstance(layer, Selecting) else None


RULES: dict[str, Rule] = dict.fromkeys(("index_select", "index"), Chosen())
