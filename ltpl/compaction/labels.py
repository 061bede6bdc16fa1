"""`Labels`: which slices of which tensors can only be removed together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
FROZEN = 0


class Labels:
    """A union of slices: every index along a dimension of a tensor has a label.

    Slices whose labels are tied go together or not at all; what is tied to `FROZEN` stays.

    Example:
        >>> labels = Labels()
        >>> a, b = labels.fresh(3), labels.fresh(3)
        >>> labels.tie(a, b[::-1])
        >>> classes = labels.classes()
        >>> bool(classes[a[0]] == classes[b[2]]), bool(classes[a[0]] == classes[a[1]])
        (True, False)
    """

    def __init__(self) -> None:
        self.count = 1
        self._ties: list[tuple[Ids, Ids]] = []

    def fresh(self, size: int) -> Ids:
        """Return new labels."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def tie(self, some: Ids, others: Ids | int) -> None:
        """Let labels at equal places go together."""
        pair = np.broadcast_arrays(some, others)
        self._ties.append((pair[0].reshape(-1), pair[1].reshape(-1)))

    def freeze(self, some: Ids) -> None:
        """Let what has these labels stay."""
        self.tie(some, FROZEN)

    def classes(self) -> Ids:
        """Return, for each label, the smallest label that it is tied to."""
        root = np.arange(self.count)
        if not self._ties:
            return root
        left, right = (np.concatenate(side) for side in zip(*self._ties, strict=True))
        while True:
            low = np.minimum(root[left], root[right])
            before = root.copy()
            for side in (left, right):
                np.minimum.at(root, before[side], low)
                np.minimum.at(root, side, low)
            while not np.array_equal(root, further := root[root]):
                root = further
            if np.array_equal(root, before):
                return root
