"""Numbers of channels that stand in a module's own code: `view(-1, 400)`, `pad(x, (0, 0, 8, 8))`.

The module is traced with `torch.fx`, its children left whole, and the numbers in the trace are
replaced. Code that computes its numbers from shapes, `view(x.size(0), -1)`, needs nothing.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import fx, nn
from torch.fx import GraphModule, Node

from ltpl.compaction.spec import Literal

NAMES = {
    "view": ("view", "reshape"),
    "reshape": ("reshape", "view"),
    "pad": ("pad", "constant_pad_nd"),
    "constant_pad_nd": ("pad", "constant_pad_nd"),
    "slice": ("getitem",),
    "split": ("split", "split_with_sizes"),
    "split_with_sizes": ("split", "split_with_sizes"),
}


KEYWORDS = ("pad", "size", "shape", "sizes", "split_size_or_sections", "split_size", "split_sizes")


class _Shallow(fx.Tracer):
    """Follows one `forward`, not those of the children."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def with_literals(model: nn.Module, literals: Sequence[Literal]) -> nn.Module:
    """Return `model` with other numbers in its code, or in that of its modules, in place.

    Modules whose code computes the numbers, or cannot be traced, stay as they are.
    """
    by_path: dict[str, list[Literal]] = defaultdict(list)
    for literal in literals:
        by_path[literal.path].append(literal)
    for path in sorted(by_path, key=lambda p: -p.count(".") - bool(p)):
        module = model.get_submodule(path)
        new = _edited(module, by_path[path])
        if new is None:
            continue
        if not path:
            return new
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, new)
    return model


def _edited(module: nn.Module, literals: Sequence[Literal]) -> GraphModule | None:
    traced = _traced(module)
    if traced is None:
        return None
    changed = False
    for literal in dict.fromkeys((x.operation, tuple(x.old)) for x in literals):
        alike = [x for x in literals if (x.operation, tuple(x.old)) == literal]
        nodes = [node for node in traced.nodes if _says(node, alike[0])]
        for index, node in enumerate(nodes):
            changed |= _say(node, alike[min(index, len(alike) - 1)])
    if not changed:
        return None
    name = type(module).__name__
    new = GraphModule(module, traced, name if name != "GraphModule" else "Compact")
    new.training = module.training
    return new


def _traced(module: nn.Module) -> fx.Graph | None:
    """Return the operations of a `forward`; None if they depend on data or on the mode."""
    training, codes = module.training, []
    graph = None
    try:
        for mode in (True, False):
            module.training = mode
            graph = _Shallow().trace(module)
            codes.append(str(graph))
    except Exception:  # whatever the module's own code does to a proxy
        return None
    finally:
        module.training = training
    return graph if codes[0] == codes[1] else None


def _arguments(node: Node) -> list[Any]:
    """Return the numbers that an operation is given, those that are computed as nodes."""
    if node.op == "call_function" and node.target is operator.getitem:
        index = node.args[1]
        return list(index) if isinstance(index, tuple) else [index]
    given = _numbers(node)[1]
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _name(node: Node) -> str:
    return str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))


def _says(node: Node, literal: Literal) -> bool:
    if node.op not in ("call_function", "call_method"):
        return False
    if _name(node).rstrip("_") not in NAMES.get(literal.operation, (literal.operation,)):
        return False
    given = _arguments(node)
    if literal.operation == "slice":
        dim, *edges = literal.old
        here = given[dim] if dim < len(given) else None
        return isinstance(here, slice) and _fits([here.start, here.stop], edges)
    return _fits(given[: len(literal.old)], literal.old)


def _fits(given: Sequence[Any], old: Sequence[Any]) -> bool:
    if len(given) != len(old):
        return False
    pairs = zip(given, old, strict=True)
    return all(isinstance(g, Node) or g == o or (g is None and o in (0, None)) for g, o in pairs)


def _say(node: Node, literal: Literal) -> bool:
    """Replace the numbers; say whether there were any."""
    if literal.operation == "slice":
        return _cut(node, literal)
    where, given = _numbers(node)
    if isinstance(given, int) and literal.operation == "split":
        new: Any = literal.new[0] if len(literal.new) == 1 else list(literal.new)
    elif isinstance(given, (list, tuple)):
        pairs = zip(given, literal.new, strict=False)
        new = (*(n if isinstance(g, int) else g for g, n in pairs), *given[len(literal.new) :])
    else:
        return False
    if new == given or (isinstance(given, list) and list(new) == given):
        return False
    if where is None:
        node.args = (node.args[0], *new)
    elif isinstance(where, str):
        node.kwargs = {**node.kwargs, where: new}
    else:
        node.args = (*node.args[:where], new, *node.args[where + 1 :])
    return True


def _cut(node: Node, literal: Literal) -> bool:
    """Replace the edges of a slice."""
    given = _arguments(node)
    dim, *edges = literal.new
    here = given[dim]
    old = [here.start, here.stop]
    new = [e if isinstance(g, int) else g for g, e in zip(old, edges, strict=True)]
    given[dim] = slice(new[0], new[1], here.step)
    node.args = (node.args[0], tuple(given))
    return new != old


def _numbers(node: Node) -> tuple[int | str | None, Any]:
    """Return where the numbers of an operation stand, and what is there.

    None if each number is an argument of its own: `view(2, 16, 8)`.
    """
    first = 2 if _name(node) == "unflatten" else 1
    if len(node.args) > first:
        here = node.args[first]
        if isinstance(here, (list, tuple)) or _name(node).startswith("split"):
            return first, here
        return None, node.args[1:]
    for name in KEYWORDS:
        if name in node.kwargs:
            return name, node.kwargs[name]
    return None, None
