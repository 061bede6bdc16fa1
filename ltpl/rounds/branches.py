"""Branches: controls and variants over finished rounds; the dense training is shared."""

from __future__ import annotations

import copy
import difflib
import fnmatch
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_utilities.core.rank_zero import rank_zero_warn

from ltpl.callbacks.rewinding import Policy
from ltpl.masks.errors import check_folder_name, check_types, unknown
from ltpl.masks.mask import Mask
from ltpl.masks.select import named_parameters, output_weights
from ltpl.masks.shuffled import shuffled, shuffled_globally
from ltpl.rounds.draw import next_mask, next_start
from ltpl.rounds.experiment import Experiment, Parts
from ltpl.rounds.leaving import lightning_whispers
from ltpl.rounds.loop import Loop
from ltpl.rounds.plan import Plan, numbers
from ltpl.rounds.ranks import from_leader, start_together
from ltpl.rounds.rewinding_point import Lines, rewinding_point
from ltpl.rounds.run import fresh, is_dry, passing_folder
from ltpl.rounds.seeds import mixed
from ltpl.rounds.stop import Stop
from ltpl.rounds.tree import RunTree
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.ticket import FINAL, MASK, Ticket

KINDS = {
    "retrain": "the same tickets, with whatever options are changed",
    "rewind": "the same masks, back to the rewinding point",
    "lr_rewind": "the same masks on the trained weights, with the schedule of the rewinding point",
    "finetune": "the same masks on the trained weights, at the last learning rate",
    "reinit": "the same masks over new initial weights",
    "random_mask": "as many weights, chosen at random",
    "shuffled_mask": "the masks, shuffled inside each layer",
    "one_shot": "the dense network pruned at once to each density",
    "mask_transfer": "the masks on other data, over its own initial weights",
    "ticket_transfer": "masks and starting weights on other data, with a new head",
}
"""What a branch can be."""
KNOBS = {"random_mask": ("counts",), "mask_transfer": ("head",), "ticket_transfer": ("head",)}


@dataclass(frozen=True)
class Branch:
    """Controls and variants over finished rounds of a run.

    Args:
        name: Name of the branch, and its kind where it is the name of one.
        kind: `retrain`, `rewind`, `lr_rewind`, `finetune`, `reinit`, `random_mask`,
            `shuffled_mask`, `one_shot`, `mask_transfer` or `ticket_transfer`.
        levels: Which rounds: `5`, `3-7` or `1,3,7`; all that are finished, without the dense one,
            if not given.
        seeds: Which replicates; all of the run if not given.
        counts: Whether a random mask has as many weights in each `layer`, or only in all, `global`.
        draw: Number of a random draw, to have several.
        head: Globs of the parameters that a transfer starts anew; the output layer if not given.
        save_every_n_steps: Checkpoint every n steps inside epochs too.
        report: Whether to write the run's report page at the end.
        quiet: Whether to print nothing but errors.
    """

    name: str
    kind: str | None = None
    levels: str | int | None = None
    seeds: str | int | None = None
    counts: str = "global"
    draw: int = 0
    head: str | None = None
    save_every_n_steps: int | None = None
    report: bool = True
    quiet: bool = False

    def __post_init__(self) -> None:
        check_types(Branch, vars(self))
        check_folder_name("name", self.name)
        if self.kind is None and self.name not in KINDS:
            if near := difflib.get_close_matches(self.name, KINDS, n=1, cutoff=0.75):
                raise ValueError(
                    f"name={self.name!r}: did you mean {near[0]!r}? Say kind={near[0]}, or "
                    "kind=retrain to train the same tickets with other options."
                )
            object.__setattr__(self, "kind", "retrain")
        kind = self.kind or self.name
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
        object.__setattr__(self, "kind", kind)
        if self.counts not in ("layer", "global"):
            raise unknown("counts", self.counts, ["layer", "global"])
        numbers(self.levels, "levels")
        numbers(self.seeds, "seeds")


def run_branch(experiment: Experiment, branch: Branch, run: str | Path) -> RunTree:
    """Run a branch over the finished rounds of a run; what is finished is not done again.

    Args:
        experiment: Builds each round.
        branch: What to run.
        run: Folder of the run.

    Raises:
        ValueError: If the run is none, rounds that are asked for are not finished, or an option
            changed that finished results depend on.
    """
    main = RunTree.existing(run)
    options = main.read()["config"]
    of_plan = vars(Plan(run="")).keys() - {"run"}
    plan = Plan(run=str(run), **{k: v for k, v in options.items() if k in of_plan})
    with lightning_whispers():
        seed = plan.replicates()[0]
        parts = experiment.build(plan.seeds_of(seed).init, main.path, [], [])
        start_together(parts.trainer, parts.module)
        del parts
    if is_dry(experiment):
        with passing_folder() as folder:
            nothing = replace(branch, report=False)
            return _run_branch(experiment, nothing, plan, main, RunTree(folder, "branch.json"))
    return _run_branch(experiment, branch, plan, main, main.branch(branch.name))


def _run_branch(
    experiment: Experiment, branch: Branch, plan: Plan, main: RunTree, tree: RunTree
) -> RunTree:
    shown = ("save_every_n_steps", "report", "quiet")
    plan = replace(plan, **{name: getattr(branch, name) for name in shown})
    rounds = _finished(main, branch)
    used = ["kind", "draw", *KNOBS.get(branch.kind or "", ())]
    own = {name: getattr(branch, name) for name in used}
    from_leader(lambda: _must_be_whole(main, rounds, plan, branch))
    more = {
        "seeds": sorted({seed for seed, _ in rounds}),
        "rounds": sorted({lv for _, lv in rounds}),
    }
    config = {**experiment.config, "branch": own}
    from_leader(lambda: tree.begin(config, kind=branch.kind, **more))
    source = _Source(experiment, branch, plan, main, tree)
    dry = is_dry(experiment)
    loop = Loop(experiment, plan, tree, main, rounds, source.draw, branch.name, dry)
    loop.run(f"{main.path.name}, {branch.name}")
    return tree


def _finished(main: RunTree, branch: Branch) -> list[tuple[int, int]]:
    """Return seed and level of the rounds to branch from."""
    there = [(r.seed, r.round) for r in main.results()]
    levels = numbers(branch.levels, "levels") or sorted({lv for _, lv in there if lv})
    seeds = numbers(branch.seeds, "seeds") or sorted({seed for seed, _ in there})
    wanted = [(seed, level) for seed in seeds for level in levels]
    missing = [f"seed {s} round {level}" for s, level in wanted if (s, level) not in there]
    if missing or not wanted:
        raise ValueError(
            f"{main.path} has not finished {', '.join(missing[:5]) or 'any round'}: finish the run "
            "first, or choose other levels or seeds."
        )
    if 0 in levels and branch.kind != "retrain":
        raise ValueError(
            f"levels={branch.levels}: a branch of kind {branch.kind!r} has no round 0."
        )
    return wanted


def _must_be_whole(
    main: RunTree, rounds: list[tuple[int, int]], plan: Plan, branch: Branch
) -> None:
    """Raise if something that the branch starts from is not as its round has left it."""
    sources = {(s, level) for s, lv in rounds for level in (0, lv, plan.parent(lv) if lv else 0)}
    for seed, level in sorted(sources):
        if wrong := main.damage(seed, level):
            raise ValueError(f"{wrong} `ltpl rounds` with the options of the run makes it again.")


@dataclass(frozen=True)
class _Source:
    """Draws the tickets of a branch from the rounds of its run."""

    experiment: Experiment
    branch: Branch
    plan: Plan
    main: RunTree
    tree: RunTree

    def draw(self, parts: Parts, seed: int, level: int, stop: Stop) -> Ticket:
        branch, chance = self.branch, self.plan.seeds_of(seed)
        mask_seed = mixed(branch.kind, chance.mask, level, branch.draw)
        mask = Mask.load(self.main.round(seed, level) / MASK)
        if branch.kind in ("mask_transfer", "ticket_transfer"):
            return self._transferred(parts, seed, level, mask)
        if branch.kind == "random_mask" and branch.counts == "global":
            mask = shuffled_globally(mask, mask_seed)
        elif branch.kind in ("random_mask", "shuffled_mask"):
            mask = shuffled(mask, mask_seed)
        initial = Snapshot.take("0ep", parts.module)
        parent = self.plan.parent(level)
        if branch.kind == "one_shot":
            parent = 0
            dense_mask = Mask.load(self.main.round(seed, 0) / MASK)
            trained = Snapshot.load(self.main.round(seed, 0) / FINAL)
            at_once = replace(self.plan, one_shot=True)
            mask = next_mask(parts, at_once, level, trained, dense_mask, mask_seed)
        lines = Lines(self.plan, self.main, self.tree)
        rewinder = copy.copy(parts.rewinder)
        if branch.kind in set(Policy):
            rewinder.policy, rewinder.mask_1 = Policy(branch.kind), "rewind"
        anew = mixed("reinit", chance.init, level, *([branch.draw] if branch.draw else []))
        return next_start(
            rewinder,
            mask,
            rewinding_point(self.experiment, lines, rewinder, seed, initial, stop),
            Snapshot.load(self.main.round(seed, parent) / FINAL),
            lambda: fresh(self.experiment, self.tree.round(seed, level), anew),
            mask_seed,
        )

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
            source = Ticket.load(self.main.round(seed, level)).start
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
