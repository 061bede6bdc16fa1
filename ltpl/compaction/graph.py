"""`Graph`: what a network computes, as the operations that `torch.export` records."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from ltpl.compaction.errors import CompactionError

HANDED_ON = ("getitem", "dropout", "feature_dropout", "alpha_dropout")  # no schema says so


@dataclass(frozen=True)
class Graph:
    """The operations of one forward pass in evaluation mode.

    Args:
        nodes: Operations in order; operands that an operation changed in place are replaced by
            its result.
        tensors: The parameters and buffers that placeholders stand for, by placeholder.
        operands: The arguments of each node by the names of its schema, with in-place operations
            resolved.
    """

    nodes: list[Node]
    tensors: Mapping[Node, str]
    operands: Mapping[Node, dict[str, Any]]


def operation(node: Node) -> str:
    """Return the name of an operation, `conv2d` for `aten.conv2d.default`, without in-place `_`."""
    target = node.target
    packet = getattr(target, "overloadpacket", None)
    name = str(packet or getattr(target, "__name__", target)).removeprefix("aten.")
    return name.rstrip("_") if packet is not None else name


def owner(node: Node) -> str:
    """Return the path of the module whose `forward` does this operation."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def trace(model: nn.Module, example: tuple[Any, ...]) -> Graph:
    """Record what `model` computes from `example`; it is left as it was.

    Raises:
        CompactionError: If `torch.export` cannot follow the network.
    """
    twin = copy.deepcopy(model)
    names = _names(twin)
    with evaluating(twin), torch.no_grad(), _silence():
        try:
            program = torch.export.export(twin, example, strict=False)
        except Exception as error:  # whatever the network's own code raises on the way
            line = str(error).strip().split("\n")[0]
            raise CompactionError(
                f"torch.export cannot follow {type(model).__name__}: {type(error).__name__}: {line}"
            ) from error
    nodes = list(program.graph.nodes)
    signature = program.graph_signature
    stored: dict[str, str] = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    placeholders = [node for node in nodes if node.op == "placeholder"]
    tensors = {
        n: names.get(stored[n.name], stored[n.name]) for n in placeholders if n.name in stored
    }
    return Graph(nodes, tensors, _resolved(nodes))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, uncompiled, and back when the block ends."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Let what `torch.export` logs about a failure go: it is raised too."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _names(model: nn.Module) -> dict[str, str]:
    """Return, for each name of a parameter or buffer, the first name of the same tensor."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    every: list[tuple[str, Tensor]] = list(model.named_parameters(remove_duplicate=False))
    every += model.named_buffers(remove_duplicate=False)
    for name, tensor in every:
        found[name] = first.setdefault(id(tensor), name)
    return found


def bound(node: Node) -> dict[str, Any]:
    """Return arguments by name, defaults included; by position where there is no schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{str(i): value for i, value in enumerate(node.args)}, **node.kwargs}
    found = {}
    for index, argument in enumerate(schema.arguments):
        given = node.args[index] if index < len(node.args) else argument.default_value
        found[argument.name] = node.kwargs.get(argument.name, given)
    return found


def _is_view(node: Node) -> bool:
    """Whether a result may share memory with an operand that it does not change."""
    schema = getattr(node.target, "_schema", None)
    if operation(node) in HANDED_ON:
        return True
    given = [] if schema is None else [x.alias_info for x in schema.arguments]
    shared = schema is not None and any(x.alias_info is not None for x in schema.returns)
    return shared and any(info is not None and not info.is_write for info in given)


def _resolved(nodes: list[Node]) -> dict[Node, dict[str, Any]]:
    """Return each node's arguments; what was changed in place is read as the result of the change.

    Raises:
        CompactionError: If a view of what is changed in place is read later.
    """
    now: dict[Node, Node] = {}
    base: dict[Node, Node] = {}
    place = {node: index for index, node in enumerate(nodes)}
    operands: dict[Node, dict[str, Any]] = {}

    def live(value: Any) -> Any:
        return torch.fx.node.map_arg(value, lambda node: now.get(node, node))

    for node in nodes:
        operands[node] = live(bound(node))
        if node.op != "call_function" or not node.args:
            continue
        first = node.args[0]
        if not isinstance(first, Node):
            continue
        first = now.get(first, first)
        if _is_view(node):
            base[node] = base.get(first, first)
        target = node.target
        name = str(getattr(target, "overloadpacket", ""))
        if not name.endswith("_") or name.endswith("__"):
            continue
        root = base.get(first, first)
        kin = [n for n in (root, *(v for v, b in base.items() if b is root)) if n is not first]
        for other in kin:
            if other is not node and any(place[user] > place[node] for user in other.users):
                raise CompactionError(
                    f"{name} in {owner(node) or 'the network'} changes {first} in place, and a "
                    "view of it is read later."
                )
        for old, new in list(now.items()):
            if new is first:
                now[old] = node
        now[first] = node
    return operands
