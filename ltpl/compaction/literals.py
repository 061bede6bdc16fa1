"""Numbers of channels that stand in a module's own code: `view(-1, 400)`, `pad(x, (0, 0, 8, 8))`.

The module is traced with `torch.fx`, its children left whole, and the numbers in the trace are
replaced. Code that computes its numbers from shapes, `view(x.size(0), -1)`, needs nothing.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
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
    rest: Any = node.args[1:]
    for name in ("pad", "size", "shape", "split_size_or_sections", "split_sizes"):
        rest = rest or ((node.kwargs[name],) if name in node.kwargs else ())
    if rest and isinstance(rest[0], (list, tuple, torch.Size)):
        return list(rest[0])
    return list(rest)


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
    if _name(node) == "unflatten":
        given = list(given[-1]) if given and isinstance(given[-1], tuple) else given[1:]
    return _fits(given[: len(literal.old)], literal.old)


def _fits(given: Sequence[Any], old: Sequence[Any]) -> bool:
    if len(given) != len(old):
        return False
    pairs = zip(given, old, strict=True)
    return all(isinstance(g, Node) or g == o or (g is None and o in (0, None)) for g, o in pairs)


def _say(node: Node, literal: Literal) -> bool:
    """Replace the numbers; say whether there were any."""
    given = _arguments(node)
    if literal.operation == "slice":
        dim, *edges = literal.new
        here = given[dim]
        new = [
            e if isinstance(g, int) else g
            for g, e in zip([here.start, here.stop], edges, strict=True)
        ]
        if new == [here.start, here.stop]:
            return False
        given[dim] = slice(*new, here.step)
        node.args = (node.args[0], tuple(given))
        return True
    new = [n if isinstance(g, int) else g for g, n in zip(given, literal.new, strict=False)]
    if new == given[: len(new)]:
        return False
    if node.op == "call_method" and not isinstance(node.args[1], (list, tuple)):
        node.args = (node.args[0], *new)
    elif len(node.args) > 1:
        node.args = (node.args[0], tuple(new), *node.args[2:])
    else:
        name = next(n for n, value in node.kwargs.items() if isinstance(value, (list, tuple)))
        node.kwargs = {**node.kwargs, name: tuple(new)}
    return True
