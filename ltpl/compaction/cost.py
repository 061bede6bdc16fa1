"""What a network costs: parameters, and multiply-accumulates for one example."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ltpl.compaction.graph import evaluating


@dataclass(frozen=True)
class LayerCost:
    """One row: a layer with weights of its own, or one that multiplies.

    Args:
        layer: Its path.
        parameters: Its own parameters; tied ones count where they come first.
        macs: Multiply-accumulates of its own `forward` on the example, without layers inside.
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
    with evaluating(twin), _in_parts(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(*example)
    name = type(twin).__name__
    flops = {path: sum(each.values()) for path, each in counter.get_flop_counts().items()}
    counts = {
        path: flops.get(f"{name}.{path}" if path else "Global", 0)
        for path, _ in twin.named_modules()
    }
    rows, seen = [], set[nn.Parameter]()
    for path, module in twin.named_modules():
        held = list(module.parameters(recurse=False))
        own = sum(p.numel() for p in held if p not in seen)
        macs = max(0, counts[path] - _inside(module, path, counts)) // 2
        seen.update(held)
        if held or macs:
            rows.append(LayerCost(path, own, macs))
    return rows


@contextlib.contextmanager
def _in_parts() -> Iterator[None]:
    """Let Transformer layers do one operation after another: what is fused is not counted."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _inside(module: nn.Module, path: str, counts: Mapping[str, int]) -> int:
    """Return what the layers inside a module count; a list of layers counts nothing itself."""
    found = 0
    for name, child in module.named_children():
        here = f"{path}.{name}".lstrip(".")
        found += counts.get(here) or _inside(child, here, counts)
    return found


def total(rows: list[LayerCost]) -> LayerCost:
    """Return the sum over all layers."""
    return LayerCost("total", sum(r.parameters for r in rows), sum(r.macs for r in rows))
