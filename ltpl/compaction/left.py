"""What a mask leaves of each layer once it is compacted: parameters and multiply-accumulates."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ltpl.compaction.cost import cost
from ltpl.compaction.plan import plan
from ltpl.masks.mask import Mask


@dataclass(frozen=True)
class LayerLeft:
    """One row: a layer with weights of its own, before and after compaction.

    Args:
        layer: Its path.
        parameters: Its own parameters.
        parameters_left: How many of them are left.
        macs: Multiply-accumulates for one example, or one graph.
        macs_left: How many of them are left.
    """

    layer: str
    parameters: int
    parameters_left: int
    macs: int
    macs_left: int


def left(
    model: nn.Module, mask: Mask, example: tuple[Any, ...], small: nn.Module | None = None
) -> list[LayerLeft]:
    """Return what is left of each layer, and the total in the last row.

    Args:
        model: The dense network; it is left as it was.
        mask: What is kept.
        example: What it is called with; of a batch that is one tensor, one example counts.
        small: The compacted network, if it is there already.

    Raises:
        CompactionError: If the network cannot be compacted.
    """
    if small is None:
        small = plan(model, mask, example).apply(copy.deepcopy(model))
    one = example
    if len(example) == 1 and isinstance(example[0], Tensor):
        one = (example[0][:1],)
    rows = [
        LayerLeft(a.layer, a.parameters, b.parameters, a.macs, b.macs)
        for a, b in zip(cost(model, one), cost(small, one), strict=True)
    ]
    return [*rows, _total(rows)]


def _total(rows: Sequence[LayerLeft]) -> LayerLeft:
    fields = ("parameters", "parameters_left", "macs", "macs_left")
    return LayerLeft("total", *(sum(getattr(row, name) for row in rows) for name in fields))


def written(rows: Sequence[LayerLeft]) -> str:
    """Return rows as a table in text."""
    width = max(len(row.layer) for row in rows)
    lines = [f"{'layer':{width}} {'parameters':>26} {'MACs':>34}"]
    for row in rows:
        share = row.macs_left / row.macs if row.macs else row.parameters_left / row.parameters
        lines.append(
            f"{row.layer:{width}} {row.parameters:>12,} -> {row.parameters_left:>10,} "
            f"{row.macs:>16,} -> {row.macs_left:>14,} {share:>5.0%}"
        )
    return "\n".join(lines)
