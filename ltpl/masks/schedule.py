"""When to prune, and how much of the way each time.

"Epoch k" means that k epochs have been trained: the start of epoch k, counted from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from ltpl.masks.errors import checked


class Schedule:
    """When to prune. Subclasses answer two questions."""

    def due(self, epoch: int, ended: bool = False) -> bool:
        """Say whether to prune when `epoch` epochs have been trained.

        Args:
            epoch: How many epochs have been trained.
            ended: Whether training ends here.
        """
        raise NotImplementedError

    def progress(self, epoch: int) -> float | None:
        """Return how far towards the final sparsity this event goes, or None: a full step."""
        return None


class AtEpochs(Schedule):
    """At the epochs named; a single one is one-shot pruning.

    Args:
        epochs: How many epochs have been trained at each pruning.
    """

    @checked
    def __init__(self, epochs: Sequence[int]):
        self.epochs = sorted(epochs)
        if not self.epochs or self.epochs[0] < 0 or len(set(self.epochs)) < len(self.epochs):
            raise ValueError(
                f"epochs={list(epochs)}: give one or more different epochs, counted from 0."
            )

    def due(self, epoch: int, ended: bool = False) -> bool:
        """At each epoch named."""
        return epoch in self.epochs


class Every(Schedule):
    """Every n epochs.

    Args:
        n: The distance.
        first: The first pruning; n if not given.
        last: No pruning after this many epochs.
    """

    @checked
    def __init__(self, n: int, first: int | None = None, last: int | None = None):
        self.n, self.first, self.last = n, n if first is None else first, last
        if n < 1 or self.first < 0 or (last is not None and last < self.first):
            raise ValueError(
                f"Every(n={n}, first={first}, last={last}): n is at least 1, 0 <= first <= last."
            )

    def due(self, epoch: int, ended: bool = False) -> bool:
        """At first, first + n, ... up to last."""
        since = epoch - self.first
        return since >= 0 and since % self.n == 0 and (self.last is None or epoch <= self.last)


class Cubic(Schedule):
    """Gradual pruning, fast at first: s_f + (s_i - s_f)(1 - t)^3 (Zhu and Gupta, 2017, eq. 1).

    Args:
        first: Where t = 0; the network is as dense as it was.
        last: Where t = 1; the amount asked for is reached.
        every: Distance between prunings, in epochs.
    """

    @checked
    def __init__(self, first: int, last: int, every: int = 1):
        self.first, self.last, self.every = first, last, every
        if every < 1 or not 0 <= first < last:
            raise ValueError(
                f"Cubic(first={first}, last={last}, every={every}): 0 <= first < last, every >= 1."
            )

    def due(self, epoch: int, ended: bool = False) -> bool:
        """After first, every so many epochs, and at last."""
        inside = self.first < epoch <= self.last
        return inside and ((epoch - self.first) % self.every == 0 or epoch == self.last)

    def progress(self, epoch: int) -> float:
        """1 - (1 - t)^3."""
        return 1 - (1 - (epoch - self.first) / (self.last - self.first)) ** 3


class PerRound(Schedule):
    """Once, when training ends: each `fit` is one round of train, prune, rewind."""

    def due(self, epoch: int, ended: bool = False) -> bool:
        """When training ends."""
        return ended


class Never(Schedule):
    """Not at all: the mask stays as it is."""

    def due(self, epoch: int, ended: bool = False) -> bool:
        """Never."""
        return False


def as_schedule(epochs: int | Sequence[int] | Schedule) -> Schedule:
    """Return the schedule that a user's `epochs` means: a number, a list or a schedule."""
    if isinstance(epochs, Schedule):
        return epochs
    return AtEpochs([epochs] if isinstance(epochs, int) else epochs)
