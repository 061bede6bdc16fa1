"""`Rule`: what an operation does to labels, constants and needs."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.values import Value


class Rule:
    """One operation, or a family of operations that treat channels alike."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Return what is known of the result, and tie what goes together."""
        raise NotImplementedError

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Say which slices of the operands are read, and which of them must stay."""

    def literals(self, a: Analysis, node: Node, args: dict[str, Any], kept: Any) -> dict[str, Any]:
        """Return arguments that are numbers of channels, as they are after `kept`."""
        return {}


def sizes_of(node: Node) -> list[Any]:
    """Return the shape of a node's result; None for a size that depends on data."""
    return plain(node.meta["val"].shape)


def plain(shape: Any) -> list[Any]:
    """Return a shape with None for sizes that depend on data."""
    return [size if isinstance(size, int) else None for size in shape]


def is_float(node: Node) -> bool:
    """Whether a node's result is a tensor of real numbers."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


class Stored(Rule):
    """A parameter, a buffer, or an input of the network."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Give a parameter new labels; an input has none."""
        if not isinstance(node.meta.get("val"), torch.Tensor):
            return None
        name = a.graph.tensors.get(node)
        if name is None or name not in a.tensors:
            return Value.unknown(sizes_of(node))
        if name not in a.parameters:
            tensor = a.tensors[name].detach()
            labels = tuple(a.labels.fresh(n) if n > 1 else None for n in tensor.shape)
            a.parameters[name] = Value(
                tuple(tensor.shape), labels, tensor, a.dead(name), parameter=name
            )
        if not node.users:  # used in training only, or in no way that is seen here
            a.freeze(a.parameters[name])
        return a.parameters[name]


class Returned(Rule):
    """What the network returns: all of it is read, none of it may go."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Freeze the outputs."""
        for one in node.all_input_nodes:
            a.freeze(a.values.get(one))

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Ask for all of them."""
        for one in node.all_input_nodes:
            a.want(one, torch.ones((), dtype=torch.bool).reshape([1] * _dims(a, one)))


def _dims(a: Analysis, node: Node) -> int:
    value = a.value(node)
    return 0 if value is None else len(value.sizes)


class Fixed(Rule):
    """Every slice of every operand stays: what mixes channels in a way that needs all of them."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Freeze everything."""
        for one in node.all_input_nodes:
            a.freeze(a.values.get(one))
        return unknown(node)

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """Ask for everything."""
        for one in node.all_input_nodes:
            a.want(one, torch.ones([1] * _dims(a, one), dtype=torch.bool))


def unknown(node: Node) -> Any:
    """Return a value without labels, or several."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return Value.unknown(plain(value.shape))
    if isinstance(value, (list, tuple)):
        return [Value.unknown(plain(v.shape)) for v in value if isinstance(v, torch.Tensor)]
    return None


class Silent(Rule):
    """Something that is checked, without a result."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """Say nothing."""
