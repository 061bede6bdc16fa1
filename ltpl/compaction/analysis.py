"""`Analysis`: which channels and neurons of a network can go without changing what it computes.

Forward, each tensor gets labels (slices that go together) and constants (slices that never vary);
backward, each tensor learns which of its slices anybody reads. A slice may go if nobody reads it,
if it is zero, or if it is a constant that the reader's bias can take over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from ltpl.compaction.errors import CompactionError
from ltpl.compaction.graph import Graph, operation, owner
from ltpl.compaction.labels import FROZEN, Ids, Labels
from ltpl.compaction.values import Value, compressed, fitted
from ltpl.masks.mask import Mask

SELECTABLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Fold:
    """A layer whose bias can take over constant inputs.

    Args:
        weight: The layer's weight, by name.
        labels: Labels of its inputs.
        const: The constants, NaN where an input varies; 0 where nothing is to be taken over.
    """

    weight: str
    labels: Ids
    const: Tensor


class Analysis:
    """Labels, constants and needs of every tensor of a graph.

    Args:
        graph: The operations.
        tensors: Parameters and buffers by name, already masked.
        mask: What is kept. Weights outside count as alive even where they are zero; without a
            mask, every zero counts as pruned.
        model: The network, to look up layers.
        selection: Whether a normalisation layer may select some of its input's channels.
        frozen: Names of nodes whose slices all stay.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, Tensor],
        mask: Mask | None,
        model: nn.Module,
        selection: bool = True,
        frozen: Collection[str] = (),
    ):
        # the rules are written in terms of this class
        from ltpl.compaction.operations import rule
        from ltpl.compaction.operations.rule import Fixed

        self.graph, self.model, self.selection = graph, model, selection
        self.tensors, self.mask = tensors, mask
        self.labels = Labels()
        self.values: dict[Node, Any] = {}
        self.parameters: dict[str, Value] = {}
        self.needs: dict[Node, Any] = {}
        self.vetoes: list[Ids] = []
        self.implied: list[tuple[Ids, Ids, str]] = []
        self.folds: list[Fold] = []
        self.sums: list[Ids] = []
        found = [(node, rule(node)) for node in graph.nodes]
        self._refuse(found)
        self.rules = [(node, each or Fixed()) for node, each in found]
        for node, each in self.rules:
            value = self.values[node] = self._forward(node, each)
            if node.name in frozen:
                for one in (value, *(self.values.get(n) for n in node.all_input_nodes)):
                    self.freeze(one)
        for node, each in reversed(self.rules):
            with self._known(node):
                each.backward(self, node, graph.operands[node])

    def _forward(self, node: Node, rule: Any) -> Any:
        with self._known(node):
            found = rule.forward(self, node, self.graph.operands[node])
            many = isinstance(found, list)
            settled = [self._settled(v) for v in (found if many else [found])]
        return settled if many else settled[0]

    def _settled(self, value: Any) -> Any:
        """Let a slice that is alone in its dimension stay: others may be spread along it."""
        if not isinstance(value, Value):
            return value
        alone = [dim for dim in value.tracked if len(value.labels[dim]) == 1]  # type: ignore[arg-type]
        found = self.only(value, [d for d in value.tracked if d not in alone]) if alone else value
        assert list(found.const.shape) == compressed(found.labels)
        assert list(found.zero.shape) == compressed(found.labels)
        return found

    @contextlib.contextmanager
    def _known(self, node: Node) -> Iterator[None]:
        """Refuse what a rule stumbles over.

        Raises:
            CompactionError: If a rule was not made for the way its operation is used.
        """
        try:
            yield
        except CompactionError:
            raise
        except Exception as error:
            where = owner(node) or "the network itself"
            raise CompactionError(
                f"Compaction does not know the operation {operation(node)} as {where} uses it; "
                "nothing was changed."
            ) from error

    def _refuse(self, found: list[tuple[Node, Any]]) -> None:
        """Refuse operations that are not known, unless no parameter has a say in them."""
        touched: set[Node] = set()
        unknown: dict[str, str] = {}
        for node, each in found:
            tensor = isinstance(node.meta.get("val"), (Tensor, list, tuple))
            if node in self.graph.tensors or any(n in touched for n in node.all_input_nodes):
                if tensor:
                    touched.add(node)
                if each is None and (tensor or operation(node) == "item"):
                    unknown.setdefault(operation(node), owner(node))
        if unknown:
            where = [
                f"{name} (in {path or 'the network itself'})" for name, path in unknown.items()
            ]
            raise CompactionError(
                f"Compaction does not know the operation {', '.join(where)}; nothing was changed."
            )

    def value(self, node: Any) -> Value | None:
        """Return what is known of an operand; None for what is no tensor."""
        found = self.values.get(node) if isinstance(node, Node) else None
        return found if isinstance(found, Value) else None

    def must(self, node: Any) -> Value:
        """Return what is known of an operand that has to be a tensor."""
        found = self.value(node)
        assert found is not None, node
        return found

    def live(self, node: Node) -> Tensor:
        """Return which slices of a node's value are read and vary."""
        return self.need(node) & self.must(node).const.isnan()

    def only(self, value: Value, dims: Sequence[int]) -> Value:
        """Return the value with labels along `dims` alone; all other slices stay."""
        keep = [dim % len(value.sizes) for dim in dims]
        self.freeze(value, [dim for dim in value.tracked if dim not in keep])
        return value.within(keep)

    def freeze(self, value: Any, dims: Sequence[int] | None = None) -> None:
        """Let all slices along some dimensions stay; along all, if not given."""
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(one, Value):
                continue
            for dim in range(len(one.labels)) if dims is None else dims:
                ids = one.labels[dim]
                if ids is not None:
                    self.labels.freeze(ids)

    def tie(self, some: Ids | None, others: Ids | None) -> Ids | None:
        """Let slices go together; where one side has no labels, the other stays."""
        if some is None or others is None:
            known = others if some is None else some
            if known is not None:
                self.labels.freeze(known)
            return known
        self.labels.tie(some, others)
        return some

    def need(self, node: Node) -> Tensor:
        """Return which slices of a node's value are read; a tensor like its constants."""
        if node not in self.needs:
            value = self.must(node)
            self.needs[node] = torch.zeros(compressed(value.labels), dtype=torch.bool)
        found: Tensor = self.needs[node]
        return found

    def want(self, node: Any, need: Tensor) -> None:
        """Say that slices of an operand are read."""
        if self.value(node) is not None:
            here = self.need(node)
            self.needs[node] = here | fitted(need, here.shape)

    def veto(self, labels: Ids | None, where: Tensor) -> None:
        """Say that slices must stay."""
        if labels is not None:
            self.vetoes.append(labels[where.numpy()])

    def dead(self, name: str) -> Tensor:
        """Return where a parameter is pruned for good; where a buffer is zero, without a mask."""
        tensor = self.tensors[name]
        if self.mask is None:
            return tensor.detach() == 0
        if name in self.mask:
            return ~self.mask[name].to(tensor.device)
        return torch.zeros_like(tensor, dtype=torch.bool)

    def selects(self, path: str) -> bool:
        """Whether a layer may select channels of its input: batch normalisation, called once."""
        layer = self.model.get_submodule(path)
        used = [n for n, name in self.graph.tensors.items() if name == f"{path}.weight"]
        once = sum(len(node.users) for node in used) == 1
        return self.selection and type(layer) in SELECTABLE and once

    def kept(self, round_to: int = 1) -> Kept:
        """Return what stays.

        Args:
            round_to: Widths are raised to the next multiple, where there were as many.
        """
        return Kept(self, round_to)


class Kept:
    """Which labels stay.

    Args:
        analysis: What was found out.
        round_to: Widths are multiples of this.
    """

    def __init__(self, analysis: Analysis, round_to: int):
        self._analysis = analysis
        self.classes = analysis.labels.classes()
        self._stays = np.zeros(analysis.labels.count, dtype=bool)
        self._stays[FROZEN] = True
        for labels in analysis.vetoes:
            self._stays[self.classes[labels]] = True
        widths = [
            ids
            for name, value in analysis.parameters.items()
            if name.endswith("weight") or value.const.dim() > 1
            for ids in value.labels
            if ids is not None
        ]
        while self._spread() | self._raise(widths, round_to):
            pass

    def __call__(self, labels: Ids) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return which of some slices stay."""
        found: np.ndarray[Any, np.dtype[np.bool_]] = self._stays[self.classes[labels]]
        return found

    def _spread(self) -> bool:
        """Let the input of a layer stay where its output does; say whether anything changed."""
        changed = False
        for inputs, outputs, _ in self._analysis.implied:
            short = self(outputs) & ~self(inputs)
            if short.any():
                self._stays[self.classes[inputs[short]]] = changed = True
        return changed

    def _raise(self, widths: Sequence[Ids], round_to: int) -> bool:
        """Let dead slices stay until widths fit; say whether anything changed."""
        changed = False
        for ids in widths:
            here = np.unique(self.classes[ids])
            sizes = (
                {int(c): int((self.classes[ids] == c).sum()) for c in here} if round_to > 1 else {}
            )
            stays, width = self._stays[here], int(self(ids).sum())
            wanted = min(-(-max(width, 1) // round_to) * round_to, len(ids))
            for one in here[~stays]:
                if width >= wanted:
                    break
                self._stays[one] = changed = True
                width += sizes.get(int(one), 1)
        return changed

    def sizes(self, value: Value) -> list[Any]:
        """Return a tensor's shape after what does not stay is gone."""
        return [
            size if ids is None else int(self(ids).sum())
            for size, ids in zip(value.sizes, value.labels, strict=True)
        ]
