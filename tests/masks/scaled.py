"""Layers with scaling factors, and which of their channels stay by a rule written otherwise."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.masks import Mask

HOLDS = "ignore:min_keep=.* holds channels back"


class Norms(nn.Module):
    """Layers whose scaling factors are given; nothing flows through them."""

    def __init__(self, *factors: Any) -> None:
        super().__init__()
        for i, values in enumerate(factors):
            values = torch.as_tensor(values, dtype=torch.float32)
            norm = nn.BatchNorm2d(len(values))
            norm.weight.data = values
            norm.bias.data.normal_()
            self.add_module(f"bn{i}", norm)


def kept(mask: Mask, layers: int) -> list[list[bool]]:
    return [mask[f"bn{i}.weight"].tolist() for i in range(layers)]


def by_rule(factors: list[Tensor], count: int, min_keep: int) -> list[list[bool]]:
    """The best `min_keep` of each layer are safe; of the others the smallest go, last first."""
    worst_first, position = [], itertools.count()
    for layer, values in enumerate(factors):
        order = [(abs(float(v)), -next(position), layer, i) for i, v in enumerate(values)]
        worst_first += sorted(order)[: max(0, len(order) - min_keep)]
    gone = {(layer, i) for _, _, layer, i in sorted(worst_first)[:count]}
    return [[(layer, i) not in gone for i in range(len(v))] for layer, v in enumerate(factors)]
