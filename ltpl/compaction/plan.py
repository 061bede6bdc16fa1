"""`Compaction`: what goes, found out before anything is changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.compaction.analysis import Analysis, Kept
from ltpl.compaction.foreseen import odd, ranges
from ltpl.compaction.graph import Graph, operation, owner, trace
from ltpl.compaction.proof import Proof
from ltpl.compaction.rewrite import rebuild
from ltpl.compaction.spec import Literal, Spec
from ltpl.masks.mask import Mask


@dataclass(frozen=True)
class Compaction:
    """Which slices of which tensors stay, and what else changes.

    Args:
        kept: For each parameter and buffer that gets smaller, by dimension, the indices that stay.
        folded: What constant inputs add to the bias of layers, by path.
        spec: What changes besides the tensors.
        mask: What is zero already.
        shapes: What shapes the results of operations have then.
        ranges: What slices take then, those that do not take everything.
        numbers: What buffers hold that number the channels of something else.
        proof: How far the compacted network was from the masked one.
    """

    kept: dict[str, dict[int, Tensor]]
    folded: dict[str, Tensor]
    spec: Spec
    mask: Mask = field(default_factory=lambda: Mask({}))
    shapes: dict[str, list[Any]] = field(default_factory=dict, repr=False)
    ranges: dict[str, tuple[int, int, int]] = field(default_factory=dict, repr=False)
    numbers: dict[str, Tensor] = field(default_factory=dict, repr=False)
    proof: Proof | None = None

    def narrow(self, name: str, tensor: Tensor) -> Tensor:
        """Return the slices of a tensor that stay; `name` is the parameter's or buffer's."""
        if name in self.numbers:
            tensor = self.numbers[name].to(tensor)
        for dim, indices in self.kept.get(name, {}).items():
            tensor = tensor.index_select(dim, indices.to(tensor.device))
        return tensor

    def remaining(self, mask: Mask) -> Mask:
        """Return what a mask says of the compacted network: pruned slices that could not go."""
        return Mask({name: self.narrow(name, keep) for name, keep in mask.items()}, mask.metadata)

    def state(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters and buffers of the compacted network.

        Args:
            tensors: Those of the masked one, by name.
        """
        small = {name: self.narrow(name, tensor.detach()) for name, tensor in tensors.items()}
        for path, more in self.folded.items():
            name = f"{path}.bias"
            weight = small[f"{path}.weight"]
            bias = small.get(name, weight.new_zeros(len(more)))
            small[name] = (bias.double() + more.to(bias.device)).to(bias.dtype)
        return small

    def apply(self, model: nn.Module) -> nn.Module:
        """Make a network small in place; its parameters stay the same objects.

        Returns:
            The network; another object if numbers of channels stand in its own `forward`.
        """
        self.mask.apply_(model)
        everything = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return rebuild(model, self.spec, self.state(everything))


def plan(
    model: nn.Module,
    mask: Mask | None,
    example: tuple[Any, ...],
    round_to: int = 1,
    selection: bool = True,
    keep_root: bool = False,
) -> Compaction:
    """Find out what can go.

    Args:
        model: The network; it is left as it was.
        mask: What is kept; what is not zero, if not given.
        example: The arguments of a call.
        round_to: Numbers of channels are multiples of this.
        selection: Whether a BatchNorm may select channels of its input.
        keep_root: Whether the network has to stay the same object: numbers of channels in its own
            `forward` then stay as they are.

    Raises:
        CompactionError: If the network holds an operation that is not known, or cannot be followed.
    """
    model = copy.deepcopy(model)
    if mask is not None:
        mask.apply_(model)
    graph = trace(model, example)
    stored = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors = {name: tensor.detach().cpu() for name, tensor in stored.items()}
    frozen: set[str] = set()
    while True:
        analysis = Analysis(graph, tensors, mask, model, selection, frozen)
        found = _planned(analysis, analysis.kept(round_to), tensors, mask)
        strange = odd(found, model, example, graph, analysis, keep_root)
        if not strange - frozen:
            _warn_of_unused(found, model, graph)
            return found
        frozen |= strange


def _warn_of_unused(found: Compaction, model: nn.Module, graph: Graph) -> None:
    """Say which parameters keep their size since the example, in evaluation mode, uses none."""
    used = set(graph.tensors.values())
    rest = [n for n, p in model.named_parameters() if p.requires_grad and n not in used]
    if found.kept and rest:
        warnings.warn(
            f"{', '.join(rest[:4])}{' and others' if len(rest) > 4 else ''} take no part in "
            "evaluation and stay as they are; if they read channels that go (an auxiliary head), "
            "training stops there with an error.",
            stacklevel=4,
        )


def _planned(
    a: Analysis, kept: Kept, tensors: Mapping[str, Tensor], mask: Mask | None
) -> Compaction:
    indices: dict[str, dict[int, Tensor]] = {}
    for name, value in a.parameters.items():
        for dim, ids in enumerate(value.labels):
            stays = None if ids is None else kept(ids)
            if stays is not None and not stays.all():
                indices.setdefault(name, {})[dim] = torch.from_numpy(stays).nonzero().view(-1)
    folded = _folded(a, kept, tensors)
    for path, more in folded.items():
        own = indices.get(f"{path}.weight", {}).get(0)
        folded[path] = more if own is None else more[own]
    biases = [path for path in folded if f"{path}.bias" not in tensors]
    literals = _literals(a, kept)
    spec = Spec(_selections(a, kept), biases, [literals] if literals else [])
    shapes = {
        node.name: kept.sizes(known)
        for node in a.graph.nodes
        if node.op == "call_function" and (known := a.value(node)) is not None
    }
    return Compaction(
        indices, folded, spec, Mask(dict(mask or {})), shapes, ranges(a, kept), _numbers(a, kept)
    )


def _numbers(a: Analysis, kept: Kept) -> dict[str, Tensor]:
    """Return what normalisation layers select once their inputs have lost channels."""
    found = {}
    for node in a.graph.nodes:
        args = a.graph.operands[node]
        index = a.value(args.get("index")) if operation(node) == "index_select" else None
        ids = a.must(args["self"]).labels[args["dim"]] if index is not None else None
        if index is not None and index.parameter is not None and ids is not None:
            place = torch.from_numpy(kept(ids).cumsum() - 1)
            found[index.parameter] = place[a.tensors[index.parameter]]
    return found


def _folded(a: Analysis, kept: Kept, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what constant inputs that go contribute to each layer's outputs, all of them."""
    found = {}
    for fold in a.folds:
        gone = torch.from_numpy(~kept(fold.labels)) & (fold.const != 0) & ~fold.const.isnan()
        if bool(gone.any()):
            weight = (
                tensors[fold.weight].double().flatten(2).sum(2)
                if tensors[fold.weight].dim() > 2
                else tensors[fold.weight].double()
            )
            more = weight[:, gone] @ fold.const[gone]
            if bool(more.any()):
                found[fold.weight.removesuffix(".weight")] = more
    return found


def _selections(a: Analysis, kept: Kept) -> dict[str, list[int]]:
    found = {}
    for inputs, outputs, path in a.implied:
        before, after = kept(inputs), kept(outputs)
        if path and before.sum() != after.sum():
            place = before.cumsum() - 1
            found[path] = [int(i) for i in place[after]]
    return found


def _literals(a: Analysis, kept: Kept) -> list[Literal]:
    found = []
    for node, rule in a.rules:
        if a.values.get(node) is None:
            continue
        args = a.graph.operands[node]
        new = rule.literals(a, node, args, kept)
        if not new:
            continue
        name = operation(node)
        if name == "slice":
            dim = args["dim"] % len(a.must(args["self"]).sizes)
            old = [dim, args["start"], args["end"]]
            changed = [dim, new.get("start", args["start"]), new.get("end", args["end"])]
        else:
            ((key, value),) = new.items()
            old, changed = _listed(args[key]), _listed(value)
        numbers = [x if isinstance(x, int) else None for x in old]
        found.append(Literal(owner(node), name, numbers, changed))
    return found


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
