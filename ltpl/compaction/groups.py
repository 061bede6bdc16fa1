"""`coupling`: which channels of normalisation layers live and die together."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.graph import Graph, operation, trace
from ltpl.compaction.labels import FROZEN
from ltpl.masks.mask import Mask

PRODUCERS = {"linear": 0, "conv1d": 0, "conv2d": 0, "conv3d": 0}
PRODUCERS |= {"conv_transpose1d": 1, "conv_transpose2d": 1, "conv_transpose3d": 1}
PASSING = ("clone", "contiguous", "detach", "dropout", "to", "alias")


@dataclass(frozen=True)
class Coupling:
    """How the channels of normalisation layers hang together.

    Args:
        units: By layer, a number for each channel: channels of equal number can only be removed
            together. -1: it cannot be removed, since the network returns it or needs all channels.
        trunk: By layer, whether a channel is added to others: part of a residual trunk.
        producers: By layer, the weight that makes its channels, and along which dimension.
    """

    units: dict[str, Tensor]
    trunk: dict[str, Tensor]
    producers: dict[str, tuple[str, int]]


def coupling(model: nn.Module, example: tuple[Any, ...], norms: Iterable[str]) -> Coupling:
    """Find out which channels are added together, or otherwise hang together.

    Args:
        model: The network; it is left as it was.
        example: What it is called with.
        norms: Paths of normalisation layers.

    Raises:
        CompactionError: If the network holds an operation that is not known, or cannot be followed.
    """
    graph = trace(model, example)
    stored = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors = {name: tensor.detach().cpu() for name, tensor in stored.items()}
    analysis = Analysis(graph, tensors, Mask({}), copy.deepcopy(model), selection=False)
    classes = analysis.labels.classes()
    added = np.zeros(len(classes), dtype=bool)
    for ids in analysis.sums:
        added[classes[ids]] = True
    units, trunk = {}, {}
    for path in norms:
        name = f"{path}.weight".lstrip(".")
        size = len(tensors[name]) if name in tensors else 0
        value = analysis.parameters.get(name)
        labels = None if value is None else value.labels[0]
        here: Any = np.zeros(size, np.int64) if labels is None else classes[labels]
        units[path] = torch.from_numpy(np.where(here == FROZEN, -1, here))
        trunk[path] = torch.from_numpy(added[here] & (here != FROZEN))
    return Coupling(units, trunk, _producers(graph))


def _producers(graph: Graph) -> dict[str, tuple[str, int]]:
    """Return the weight whose filters each normalisation layer is fed by."""
    found = {}
    for node in graph.nodes:
        if operation(node) not in ("batch_norm", "instance_norm"):
            continue
        args = graph.operands[node]
        own = graph.tensors.get(args["weight"])
        source: Node = args["input"]
        while operation(source) in PASSING:
            source = next(iter(graph.operands[source].values()))
        weight = graph.operands[source].get("weight") if operation(source) in PRODUCERS else None
        if own is not None and weight is not None and weight in graph.tensors:
            path = own.rpartition(".")[0]
            found[path] = (graph.tensors[weight], PRODUCERS[operation(source)])
    return found
