"""Masks with as many weights elsewhere: the controls of every ticket."""

from __future__ import annotations

import torch
from torch import Tensor

from ltpl.masks.mask import Mask


def shuffled(mask: Mask, seed: int) -> Mask:
    """Return masks with as many weights in each layer, elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    return Mask({name: _permuted(keep, generator) for name, keep in mask.items()})


def shuffled_globally(mask: Mask, seed: int) -> Mask:
    """Return masks with as many weights in all, anywhere."""
    flat = torch.cat([keep.flatten() for keep in mask.values()])
    permuted = _permuted(flat, torch.Generator().manual_seed(seed))
    parts = torch.split(permuted, [keep.numel() for keep in mask.values()])
    return Mask({n: p.view(mask[n].shape) for n, p in zip(mask, parts, strict=True)})


def _permuted(keep: Tensor, generator: torch.Generator) -> Tensor:
    return keep.flatten()[torch.randperm(keep.numel(), generator=generator)].view(keep.shape)
