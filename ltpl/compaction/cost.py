"""What a network costs: parameters, and multiply-accumulates for one example."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ltpl.compaction.graph import evaluating


@dataclass(frozen=True)
class LayerCost:
    """One row: a layer with weights of its own.

    Args:
        layer: Its path.
        parameters: Its own parameters.
        macs: Multiply-accumulates of its `forward` on the example.
    """

    layer: str
    parameters: int
    macs: int


def cost(model: nn.Module, example: tuple[Any, ...]) -> list[LayerCost]:
    """Return parameters and multiply-accumulates of each layer, in order of registration.

    Convolutions and products of matrices are counted, as everywhere; additions, normalisation and
    activations are not. `model` is left as it was.

    Args:
        model: Any module.
        example: What it is called with.
    """
    twin = copy.deepcopy(model)
    with evaluating(twin), torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(*example)
    name = type(twin).__name__
    counts = counter.get_flop_counts()
    rows = []
    for path, module in twin.named_modules():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if own:
            flops = sum(counts.get(f"{name}.{path}" if path else "Global", {}).values())
            rows.append(LayerCost(path, own, flops // 2))
    return rows


def total(rows: list[LayerCost]) -> LayerCost:
    """Return the sum over all layers."""
    return LayerCost("total", sum(r.parameters for r in rows), sum(r.macs for r in rows))
