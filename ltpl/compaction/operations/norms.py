"""Normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ltpl.compaction.analysis import Analysis
from ltpl.compaction.operations.rule import Fixed, Rule, sizes_of
from ltpl.compaction.values import UNKNOWN, Value

STATISTICS = ("running_mean", "running_var")


class Norm(Rule):
    """Batch or instance normalisation: each channel on its own, with a scale and a shift."""

    def forward(self, a: Analysis, node: Node, args: dict[str, Any]) -> Any:
        """A channel whose scale is pruned holds its shift, whatever comes in."""
        x = a.only(a.must(args["input"]), [1])
        own = [v for n in ("weight", "bias", *STATISTICS) if (v := a.value(args[n])) is not None]
        inputs, channels = x.labels[1], x.labels[1]
        if own:
            channels = own[0].labels[0]
            for other in own[1:]:
                a.tie(channels, other.labels[0])
            path = (own[0].parameter or "").rpartition(".")[0]
            if a.selects(path) and inputs is not None and channels is not None:
                a.implied.append((inputs, channels, path))
            else:
                channels = a.tie(inputs, channels)
        scale, shift = a.value(args["weight"]), a.value(args["bias"])
        const = torch.full([x.sizes[1]], UNKNOWN, dtype=torch.float64)
        level = torch.zeros_like(const) if shift is None else shift.const.to(torch.float64)
        recorded = all(a.value(args[n]) is not None for n in STATISTICS)
        if recorded and not args.get("training") and not args.get("use_input_stats"):
            mean, var = (a.must(args[n]).const.to(torch.float64) for n in STATISTICS)
            factor = 1.0 if scale is None else scale.const.to(torch.float64)
            const = (x.along(1) - mean) / (var + args["eps"]).sqrt() * factor + level
        if scale is not None:
            const = torch.where(scale.zero, level, const)
        sizes = sizes_of(node)
        labels = [channels if dim == 1 else None for dim in range(len(sizes))]
        return Value.known(sizes, labels, const.view([1, -1] + [1] * (len(sizes) - 2)))

    def backward(self, a: Analysis, node: Node, args: dict[str, Any]) -> None:
        """A channel is read if the result is and varies."""
        live = a.live(node)
        a.want(args["input"], live)
        for name in ("weight", "bias", *STATISTICS):
            a.want(args[name], live.movedim(1, 0).flatten(1).any(1))


class LayerNorm(Fixed):
    """Statistics over channels: all of them are needed."""


RULES: dict[str, Rule] = {
    **dict.fromkeys(("batch_norm", "instance_norm"), Norm()),
    **dict.fromkeys(("layer_norm", "group_norm", "rms_norm"), LayerNorm()),
}
