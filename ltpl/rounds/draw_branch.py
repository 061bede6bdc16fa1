"""The tickets of a branch: masks of finished rounds, or masks of its own, and where they start."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_utilities.core.rank_zero import rank_zero_warn

from ltpl.callbacks.policy import Policy
from ltpl.masks.errors import unknown
from ltpl.masks.mask import Mask
from ltpl.masks.select import named_parameters, output_weights
from ltpl.masks.shuffled import shuffled, shuffled_globally
from ltpl.rounds.branch import OWN_MASKS, Branch
from ltpl.rounds.draw import next_mask, next_start
from ltpl.rounds.evaluate import validated_as_pruned
from ltpl.rounds.experiment import Experiment, Parts
from ltpl.rounds.keeping import EARLY_BIRD, found_early
from ltpl.rounds.path import measure_path
from ltpl.rounds.plan import Plan
from ltpl.rounds.ranks import leads
from ltpl.rounds.rewinding_point import Lines, dense_at, rewinding_point
from ltpl.rounds.run import fresh
from ltpl.rounds.seeds import mixed
from ltpl.rounds.stop import Stop
from ltpl.rounds.tree import RunTree
from ltpl.tickets.path import evenly, write_path
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.step import Step
from ltpl.tickets.ticket import FINAL, MASK, START, Ticket


@dataclass(frozen=True)
class Source:
    """Draws the tickets of a branch.

    Args:
        experiment: Builds each round.
        branch: What the branch is.
        plan: Densities and seeds.
        main: The run.
        of: The run, or the branch of it, whose masks and tickets are used.
        tree: The branch.
        parent: Returns the folder of the round that a ticket was pruned from.
    """

    experiment: Experiment
    branch: Branch
    plan: Plan
    main: RunTree
    of: RunTree
    tree: RunTree
    parent: Callable[[int, int], Path]

    def draw(self, parts: Parts, seed: int, level: int, stop: Stop) -> Ticket:
        """Return the ticket of a round of the branch."""
        branch, chance = self.branch, self.plan.seeds_of(seed)
        if branch.kind == "reorder":
            return self._again(parts, seed, level, stop)
        mask_seed = mixed(branch.kind, chance.mask, level, branch.draw)
        initial = Snapshot.take("0ep", parts.module)
        lines = Lines(self.plan, self.main, self.tree)
        trained = Snapshot.load(self.parent(seed, level) / FINAL)
        if branch.kind in OWN_MASKS:
            if branch.drawn_at is not None:
                trained = self._trained_early(parts, lines, seed, level, initial, stop)
            before = self._before(parts, seed, level)
            mask = next_mask(parts, self.plan, level, trained, before, mask_seed)
            pruned = validated_as_pruned(parts, mask)
        else:
            mask, pruned = self._masked(seed, level, mask_seed)
        if branch.kind in ("mask_transfer", "ticket_transfer"):
            return self._transferred(parts, seed, level, mask)
        rewinder = copy.copy(parts.rewinder)
        if branch.kind in set(Policy):
            rewinder.policy, rewinder.mask_1 = Policy(branch.kind), "rewind"
        anew = mixed("reinit", chance.init, level, *([branch.draw] if branch.draw else []))
        ticket = next_start(
            rewinder,
            mask,
            rewinding_point(self.experiment, lines, rewinder, seed, initial, stop),
            trained,
            lambda: fresh(self.experiment, self.tree.round(seed, level), anew),
            mask_seed,
        )
        return replace(ticket, made_by={**ticket.made_by, "pruned": pruned})

    def _again(self, parts: Parts, seed: int, level: int, stop: Stop) -> Ticket:
        """Return the very ticket of a finished round; at level 0 the dense rewinding point."""
        if level:
            return Ticket.load(self.of.round(seed, level))
        initial = Snapshot.take("0ep", parts.module)
        lines, step = Lines(self.plan, self.main, self.tree), parts.rewinder.step
        start = dense_at(self.experiment, lines, step, seed, initial, stop)
        made_by = {"policy": "rewind", "rewind": str(step), "optimizer": "restored"}
        mask = Mask.dense(parts.pruner.prunable(parts.module))
        return Ticket(mask, start, {**made_by, "mask_1": "rewind", "pinned": False})

    def measure_path(self, parts: Parts, seed: int, level: int) -> None:
        """Write the path from the network of the other order to this one; see `reorder`."""
        folder = self.tree.round(seed, level)
        other = (self.of if level else self.main).round(seed, level)
        first, second = (Snapshot.load(path / FINAL) for path in (other, folder))
        places, plan = evenly(self.branch.points), self.plan
        points = measure_path(parts, first, second, places, plan.monitor, plan.accuracy)
        if leads():
            write_path(folder, points)

    def _masked(self, seed: int, level: int, mask_seed: int) -> tuple[Mask, dict[str, float]]:
        """Return the mask of a finished round, perhaps shuffled, and how it did when pruned."""
        branch, mask = self.branch, Mask.load(self.of.round(seed, level) / MASK)
        if branch.kind == "random_mask" and branch.counts == "global":
            return shuffled_globally(mask, mask_seed), {}
        if branch.kind in ("random_mask", "shuffled_mask"):
            return shuffled(mask, mask_seed), {}
        result = self.of.result(seed, level)
        return mask, result.pruned if result else {}

    def _before(self, parts: Parts, seed: int, level: int) -> Mask:
        """Return what was kept in the network that is pruned now."""
        if (parent := self.parent(seed, level)).is_relative_to(self.tree.path):
            return Mask.load(parent / MASK)
        return Mask.dense(parts.pruner.prunable(parts.module))

    def _trained_early(
        self, parts: Parts, lines: Lines, seed: int, level: int, initial: Snapshot, stop: Stop
    ) -> Snapshot:
        """Return the dense network as it was when the branch prunes it."""
        if self.branch.drawn_at != EARLY_BIRD:
            step = Step.parse(str(self.branch.drawn_at), "drawn_at")
            return dense_at(self.experiment, lines, step, seed, initial, stop)
        if not self.plan.densities:
            raise ValueError(f"drawn_at={EARLY_BIRD!r}: say how much the ticket keeps, densities.")
        amount = round(1 - self.plan.densities[level - 1], 6)
        return Snapshot.load(found_early(self.main.round(seed, 0), amount) / START)

    def _transferred(self, parts: Parts, seed: int, level: int, mask: Mask) -> Ticket:
        """Return the ticket for another task: everything but the head comes along."""
        parameters = named_parameters(parts.module)
        head = self._head(parts)
        fits = {
            n: keep
            for n, keep in mask.items()
            if n not in head and n in parameters and parameters[n].shape == keep.shape
        }
        if lost := sorted(mask.keys() - fits.keys() - head):
            rank_zero_warn(f"{self.branch.name}: {', '.join(lost)} does not fit and starts anew.")
        anew = mixed("transfer", self.plan.seeds_of(seed).init, self.branch.draw)
        start = fresh(self.experiment, self.tree.round(seed, level), anew)
        if self.branch.kind == "ticket_transfer":
            source = Ticket.load(self.of.round(seed, level)).start
            for mine, theirs in ((start.weights, source.weights), (start.buffers, source.buffers)):
                for name, value in theirs.items():
                    if name in mine and name not in head and mine[name].shape == value.shape:
                        mine[name] = value
        kept = Mask(fits)
        kept.apply_(start.weights)
        made_by = {"policy": self.branch.kind, "optimizer": "fresh", "pinned": False}
        return Ticket(kept, start, made_by)

    def _head(self, parts: Parts) -> set[str]:
        names = list(named_parameters(parts.module))
        if self.branch.head is None:
            weights = output_weights(parts.module, parts.pruner.prunable(parts.module))
            layers = {weight.rpartition(".")[0] for weight in weights}
            return {n for n in names if n.rpartition(".")[0] in layers}
        found = {n for n in names if fnmatch.fnmatchcase(n, self.branch.head)}
        if not found:
            raise unknown("head", self.branch.head, names)
        return found
