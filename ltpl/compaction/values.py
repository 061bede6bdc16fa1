"""`Value`: what is known of a tensor inside the network without running it on data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ltpl.compaction.labels import Ids

UNKNOWN = float("nan")


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: labels of its slices, and the slices that never change.

    Args:
        sizes: The shape; sizes that depend on data are symbols.
        labels: For each dimension the labels of its slices; None where none can be removed.
        const: The number that a slice always holds, NaN where it varies. One dimension for each of
            the tensor's, of size 1 where there are no labels.
        zero: Where a slice is certainly zero, and stays so while the network trains on.
        parameter: The name of the parameter or buffer that this is.
    """

    sizes: tuple[Any, ...]
    labels: tuple[Ids | None, ...]
    const: Tensor
    zero: Tensor
    parameter: str | None = field(default=None)

    @classmethod
    def unknown(cls, sizes: Sequence[Any], labels: Sequence[Ids | None] | None = None) -> Value:
        """Return a value that varies everywhere."""
        labels = tuple(labels or [None] * len(sizes))
        const = torch.full(compressed(labels), UNKNOWN, dtype=torch.float64)
        return cls(tuple(sizes), labels, const, torch.zeros_like(const, dtype=torch.bool))

    @classmethod
    def known(cls, sizes: Sequence[Any], labels: Sequence[Ids | None], const: Tensor) -> Value:
        """Return a value whose constant slices are known; those that hold zero are zero."""
        return cls(tuple(sizes), tuple(labels), const, const == 0).shaped()

    def shaped(self) -> Value:
        """Return the same with constants of size 1 where there are no labels, in full elsewhere."""
        const, zero = self.const, self.zero
        for dim, ids in enumerate(self.labels):
            if ids is None and const.shape[dim] != 1:
                first = const.narrow(dim, 0, 1)
                same = (const == first).all(dim, keepdim=True)
                const = torch.where(same, first, UNKNOWN)
            if ids is None and zero.shape[dim] != 1:
                zero = zero.all(dim, keepdim=True)
        shape = compressed(self.labels)
        return replace(self, const=const.expand(shape), zero=zero.expand(shape))

    def within(self, dims: Sequence[int]) -> Value:
        """Return the same with labels along `dims` alone."""
        dims = [dim % len(self.sizes) for dim in dims]
        labels = tuple(ids if dim in dims else None for dim, ids in enumerate(self.labels))
        return replace(self, labels=labels).shaped()

    @property
    def tracked(self) -> list[int]:
        """The dimensions that have labels."""
        return [dim for dim, labels in enumerate(self.labels) if labels is not None]

    def along(self, dim: int) -> Tensor:
        """Return the constant of each slice along `dim`; NaN where it varies inside the slice."""
        return _along(self.const, dim, self.sizes[dim], uniform)

    def zero_along(self, dim: int) -> Tensor:
        """Return which slices along `dim` are zero everywhere."""
        return _along(self.zero, dim, self.sizes[dim], lambda x: x.all(1))


def compressed(labels: Sequence[Ids | None]) -> list[int]:
    """Return the shape in which constants and needs of a tensor are kept."""
    return [1 if ids is None else len(ids) for ids in labels]


def uniform(rows: Tensor) -> Tensor:
    """Return the number that all entries of a row are, or NaN."""
    first = rows[:, 0]
    return torch.where((rows == first[:, None]).all(1), first, UNKNOWN)


def _along(tensor: Tensor, dim: int, size: int, reduce: Any) -> Tensor:
    rows = tensor.movedim(dim, 0).flatten(1) if tensor.dim() > 1 else tensor.reshape(-1, 1)
    found: Tensor = reduce(rows)
    return found if found.numel() == size else found.expand(size)


def fitted(need: Tensor, shape: Sequence[int]) -> Tensor:
    """Reduce `need` to `shape`: needed is what any of its places needs."""
    while need.dim() > len(shape):
        need = need.any(0)
    while need.dim() < len(shape):
        need = need[None]
    for dim, size in enumerate(shape):
        if size == 1 and need.shape[dim] != 1:
            need = need.any(dim, keepdim=True)
    return need.expand(list(shape))
