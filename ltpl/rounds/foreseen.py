"""`Foreseen`: the rounds that a run and its branches will have, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ltpl.masks.errors import shown, unknown
from ltpl.rounds.basis import At, Basis, named
from ltpl.rounds.branch import Branch
from ltpl.rounds.experiment import Experiment
from ltpl.rounds.plan import Plan
from ltpl.rounds.tree import RunTree


@dataclass(frozen=True)
class Foreseen:
    """What there will be when the next branch begins.

    Args:
        plan: Of the run.
        run: The run, there or not.
        levels: How many levels it has, or had before.
        main: Rounds of the main line.
        branches: Rounds of the branches that come before, by name.
    """

    plan: Plan
    run: RunTree
    levels: int
    main: set[At]
    branches: dict[str, set[At]] = field(default_factory=dict)

    @classmethod
    def of(cls, experiment: Experiment, plan: Plan, seeds: Sequence[int]) -> Foreseen:
        """Return what there will be before any branch runs.

        Args:
            experiment: Builds each round.
            plan: Of the run.
            seeds: Replicates.
        """
        run, levels = RunTree(plan.run), plan.depth(experiment.amounts)
        before = run.read()["levels"] if run.record.is_file() else 0
        main = {(seed, level) for seed in seeds for level in range(levels + 1)}
        return cls(plan, run, max(levels, before), main | _finished(run))

    def finished(self, branch: str) -> set[At]:
        """Return the rounds that a branch has already."""
        return _finished(self.run.branch(branch))

    def basis(self, branch: Branch, amounts: Sequence[float | None]) -> Basis:
        """Return what a branch will be able to start from.

        Args:
            branch: The branch.
            amounts: What its pruner takes away at each level.

        Raises:
            ValueError: If it is one `of` another that will not be there.
        """
        there = self.main if branch.of is None else self._line(branch.of)
        own = branch.plan(self.plan, self.levels)
        depth = own.depth(amounts) if branch.kind == "ladder" else 0
        dense = {(seed, level) for seed, level in self.main if not level}
        seeds = {seed for seed, _ in there | dense}
        return Basis(branch, there | dense, depth, seeds, self.levels)

    def _line(self, of: str) -> set[At]:
        """Return the rounds of the branch that another one names."""
        if of in self.branches:
            return self.branches[of]
        if self.run.branch(of).record.is_file():
            return self.finished(of)
        if of not in (self.plan.branches or {}):
            raise unknown("of", of, self.plan.branches or {})
        if of in self.plan.chosen:
            raise ValueError(f"of={of!r}: branches run in their order, and {of} comes later.")
        raise ValueError(
            f"of={of!r}: {of} is not in {self.run.path} yet, and only={shown(self.plan.only)} "
            f"leaves it out. Give --only '[{','.join([of, *self.plan.patterns])}]'."
        )


def must_be_found(basis: Basis) -> None:
    """Refuse a branch that would not find what it needs.

    Raises:
        ValueError: Naming the rounds.
    """
    if basis.missing or not basis.rounds:
        lacks = named(basis.missing) or "any round"
        raise ValueError(
            f"what it starts from will not have {lacks}: choose other levels or seeds of the "
            "branch, or more of the run; `only` leaves branches out."
        )


def _finished(tree: RunTree) -> set[At]:
    return {(result.seed, result.round) for result in tree.results()}
