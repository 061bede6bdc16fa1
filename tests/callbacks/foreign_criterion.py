"""A criterion of a user, found by its dotted path."""

from __future__ import annotations

import torch
from torch import Tensor


def last_survive(weight: Tensor) -> Tensor:
    return torch.arange(float(weight.numel())).view(weight.shape)
