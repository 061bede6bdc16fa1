"""`Means`: means over the samples of an epoch, without waiting for the device in every step."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

Shares = Mapping[str, tuple[Tensor, Tensor | int]]  # by name: a sum, and over how many


class Means:
    """Sums that become means at the end of an epoch."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, Tensor | int] = {}

    def add(self, shares: Shares) -> None:
        """Add what a step has measured."""
        for name, (total, count) in shares.items():
            self._sums[name] = self._sums.get(name, 0.0) + total
            self._counts[name] = self._counts.get(name, 0) + count

    def pop(self) -> dict[str, Tensor | float]:
        """Return the means, and begin anew."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, tuple[float, int]]:
        """Return the sums, for a fit that goes on inside the epoch."""
        return {name: (float(total), int(self._counts[name])) for name, total in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, tuple[float, int]]) -> None:
        """Go on adding up."""
        self._sums = {name: total for name, (total, _) in state.items()}
        self._counts = {name: count for name, (_, count) in state.items()}
