"""The closed list of operations that compaction knows; any other is refused by name."""

from __future__ import annotations

from torch.fx import Node

from ltpl.compaction.graph import operation
from ltpl.compaction.operations import layers, parts, pointwise, reduce, shapes
from ltpl.compaction.operations.rule import Returned, Rule, Stored

RULES: dict[str, Rule] = {
    **pointwise.RULES,
    **layers.RULES,
    **shapes.RULES,
    **parts.RULES,
    **reduce.RULES,
}


def rule(node: Node) -> Rule | None:
    """Return how to treat a node; None if it is not known."""
    if node.op in ("placeholder", "get_attr"):
        return Stored()
    if node.op == "output":
        return Returned()
    return RULES.get(operation(node))
