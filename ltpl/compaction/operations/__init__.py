"""The closed list of operations that compaction knows; any other is refused by name."""

from __future__ import annotations

from torch.fx import Node

from ltpl.compaction.graph import operation
from ltpl.compaction.operations import (
    chosen,
    convolution,
    created,
    dimensions,
    joined,
    layers,
    norms,
    parts,
    pointwise,
    products,
    reduce,
    shapes,
)
from ltpl.compaction.operations.rule import Fixed, Returned, Rule, Silent, Stored

_FAMILIES = (
    pointwise,
    layers,
    convolution,
    norms,
    products,
    shapes,
    parts,
    joined,
    created,
    dimensions,
    reduce,
    chosen,
)
RULES: dict[str, Rule] = {name: rule for family in _FAMILIES for name, rule in family.RULES.items()}
RULES |= dict.fromkeys(("softmax", "log_softmax"), Fixed())
RULES["_assert_tensor_metadata"] = Silent()


def rule(node: Node) -> Rule | None:
    """Return how to treat a node; None if it is not known."""
    if node.op in ("placeholder", "get_attr"):
        return Stored()
    if node.op == "output":
        return Returned()
    return RULES.get(operation(node))
