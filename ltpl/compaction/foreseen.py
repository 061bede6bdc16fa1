"""Is the compacted network the one that was foreseen? Its graph is recorded again and compared."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ltpl.compaction.analysis import Analysis, Kept
from ltpl.compaction.errors import CompactionError
from ltpl.compaction.graph import Graph, bound, operation, owner, trace
from ltpl.compaction.spec import Spec

if TYPE_CHECKING:
    from ltpl.compaction.plan import Compaction


def odd(
    found: Compaction,
    model: nn.Module,
    example: tuple[Any, ...],
    graph: Graph,
    a: Analysis,
    keep_root: bool,
) -> set[str]:
    """Return the operations after which the compacted network has other shapes than foreseen."""
    twin = copy.deepcopy(model)
    small = found.apply(twin)
    if keep_root and small is not twin:
        return {n.name for n, rule in a.rules if not owner(n) and _changes(a, n, rule)}
    try:
        nodes = trace(small, example).nodes
    except CompactionError:
        sites = [n.name for n, rule in a.rules if _changes(a, n, rule)]
        if not sites:
            raise
        return set(sites)
    before = [n for n in graph.nodes if _computes(n)]
    after = [n for n in nodes if _computes(n) and not _selects(n, found.spec)]
    now = [r for n in nodes if (r := _range(n)) is not None]
    if now != list(found.ranges.values()):  # code that looks at shapes may slice otherwise
        slices = [(n, rule) for n, rule in a.rules if operation(n) == "slice"]
        return {n.name for n, rule in slices if _changes(a, n, rule)}
    for old, new in _pairs(before, after):
        value = new.meta.get("val")
        if old.name in found.shapes and isinstance(value, Tensor):
            pairs = zip(found.shapes[old.name], value.shape, strict=True)
            if any(isinstance(x, int) and isinstance(y, int) and x != y for x, y in pairs):
                return {old.name}  # what comes after follows from it
    return set()


def ranges(a: Analysis, kept: Kept) -> dict[str, tuple[int, int, int]]:
    """Return what slices take after compaction, by node; those that take everything are none."""
    found = {}
    for node, rule in a.rules:
        if operation(node) == "slice" and (x := a.value(a.graph.operands[node]["self"])):
            args = a.graph.operands[node]
            args = args | rule.literals(a, node, args, kept)
            taken = _taken(args, kept.sizes(x))
            if taken is not None:
                found[node.name] = taken
    return found


def _range(node: Any) -> tuple[int, int, int] | None:
    """Return what a slice takes; None for other operations, and for one that takes everything."""
    if node.op != "call_function" or operation(node) != "slice":
        return None
    args = bound(node)
    return _taken(args, list(args["self"].meta["val"].shape))


def _taken(args: Mapping[str, Any], sizes: Sequence[Any]) -> tuple[int, int, int] | None:
    dim = args["dim"] % len(sizes)
    size, edges = sizes[dim], (args["start"], args["end"])
    if not all(isinstance(x, (int, type(None))) for x in (*edges, size)) or size is None:
        return None
    start, stop, step = slice(*edges, args["step"]).indices(size)
    return None if (start, stop, step) == (0, size, 1) else (dim, start, stop)


def _pairs(before: list[Any], after: list[Any]) -> list[tuple[Any, Any]]:
    """Return operations and what became of them; a slice that takes all is no operation."""
    pairs, left = [], after[::-1]
    for old in before:
        if left and operation(left[-1]) == operation(old):
            pairs.append((old, left.pop()))
        elif operation(old) != "slice":
            left.append(old)
            break
    if left:
        raise CompactionError("The compacted network does other operations than the masked one.")
    return pairs


def _changes(a: Analysis, node: Any, rule: Any) -> bool:
    return a.values.get(node) is not None and bool(
        rule.literals(a, node, a.graph.operands[node], a.kept())
    )


def _computes(node: Any) -> bool:
    """Whether a node is an operation; a slice is none where it takes everything."""
    return node.op == "call_function" and operation(node) not in ("slice", "alias")


def _selects(node: Any, spec: Spec) -> bool:
    return operation(node) == "index_select" and owner(node) in spec.selections
