"""Parameters that are elsewhere are refused, not masked as if they were all there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ltpl.masks import Mask, prune


def emptied() -> nn.Module:
    """As DeepSpeed ZeRO-3 leaves a parameter of which this process holds a part."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[1].weight.ds_shape = torch.Size((2, 4))
    net[1].weight.data = torch.empty(0)
    return net


def test_emptied_parameters_are_named() -> None:
    with pytest.raises(ValueError, match=r"'1\.weight' is partitioned by DeepSpeed and empty here"):
        prune(emptied(), 0.5)
    mask = Mask({"0.weight": torch.ones(4, 3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"'1\.weight' is partitioned by DeepSpeed"):
        mask.apply_(emptied())


def test_gathered_parameters_are_pruned() -> None:
    net = emptied()
    net[1].weight.data = torch.rand(2, 4)
    assert prune(net, 0.5).kept == 10
