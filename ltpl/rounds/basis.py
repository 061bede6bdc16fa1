"""`Basis`: the rounds of a branch, and the rounds that it has to find finished."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from ltpl.rounds.branch import WITH_DENSE, Branch
from ltpl.rounds.plan import numbers, ranges

At = tuple[int, int]
"""Seed and level of a round."""


@dataclass(frozen=True)
class Basis:
    """What a branch can start from.

    Args:
        branch: The branch.
        there: Rounds of the line that it starts from, and dense rounds.
        depth: How many levels a ladder has.
        seeds_of_run: Replicates that are meant where the branch says nothing.
        deepest: The last level of the run, for when no round of it is there.
    """

    branch: Branch
    there: Set[At]
    depth: int
    seeds_of_run: Set[int]
    deepest: int

    @property
    def seeds(self) -> list[int]:
        """The replicates of the branch."""
        return numbers(self.branch.seeds, "seeds") or sorted(self.seeds_of_run)

    @property
    def levels(self) -> list[int]:
        """The levels of the branch.

        Raises:
            ValueError: If it cannot have one of them.
        """
        branch, asked = self.branch, numbers(self.branch.levels, "levels")
        if branch.kind == "ladder":
            return self._steps(asked)
        if 0 in asked and branch.kind not in WITH_DENSE:
            raise ValueError(
                f"levels={branch.levels}: a branch of kind {branch.kind!r} has no round 0."
            )
        first = 0 if branch.kind == "reorder" else 1
        finished = {level for _, level in self.there if level >= first}
        return asked or sorted(finished) or list(range(first, self.deepest + 1))

    def _steps(self, asked: list[int]) -> list[int]:
        """Return the levels of a ladder: each needs those before it."""
        deepest = max(asked, default=self.depth)
        if deepest > self.depth:
            raise ValueError(f"levels={self.branch.levels}: the ladder has {self.depth}.")
        if 0 in asked:
            raise ValueError(
                f"levels={self.branch.levels}: a branch of kind 'ladder' has no round 0."
            )
        return asked if asked and self.branch.one_shot else list(range(1, deepest + 1))

    @property
    def rounds(self) -> list[At]:
        """The rounds of the branch."""
        return [(seed, level) for seed in self.seeds for level in self.levels]

    @property
    def missing(self) -> list[At]:
        """What the branch needs and does not find."""
        ladder = self.branch.kind == "ladder"
        needed = [(seed, 0) for seed in self.seeds] if ladder else self.rounds
        return [each for each in needed if each not in self.there]


def named(rounds: list[At]) -> str:
    """Write rounds, in order, as `seed 1 rounds 0-2, seed 3 round 1`."""
    seeds = dict.fromkeys(seed for seed, _ in rounds)
    return ", ".join(f"seed {seed} {named_levels(rounds, seed)}" for seed in seeds)


def named_levels(rounds: list[At], seed: int) -> str:
    """Write the rounds of one seed as `rounds 0-2`."""
    levels = [level for other, level in rounds if other == seed]
    return f"round{'s' if len(levels) > 1 else ''} {ranges(levels)}"
