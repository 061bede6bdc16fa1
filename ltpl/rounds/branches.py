"""Branches: controls and variants over finished rounds; the dense training is shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ltpl.masks.errors import unknown
from ltpl.rounds.basis import At, Basis, named, named_levels
from ltpl.rounds.branch import KNOBS, OWN_MASKS, Branch
from ltpl.rounds.draw import check
from ltpl.rounds.draw_branch import Source
from ltpl.rounds.experiment import Experiment, check_levels
from ltpl.rounds.finite import diverged_before
from ltpl.rounds.leaving import lightning_whispers
from ltpl.rounds.loop import Loop
from ltpl.rounds.plan import Plan
from ltpl.rounds.ranks import from_leader, start_together
from ltpl.rounds.run import is_dry, passing_folder
from ltpl.rounds.seeds import Seeds, mixed
from ltpl.rounds.tree import RunTree, damage
from ltpl.tickets.result import FILE, seeds_and_rounds


def run_branch(experiment: Experiment, branch: Branch, run: str | Path) -> RunTree:
    """Run a branch over the finished rounds of a run; what is finished is not done again.

    Args:
        experiment: Builds each round.
        branch: What to run.
        run: Folder of the run.

    Raises:
        ValueError: If the run is none, rounds that are asked for are not finished, or an option
            changed that finished results depend on.
        Astray: If replicates went astray, in the branch or before; the others are finished then.
    """
    main = RunTree.existing(run)
    record = main.read()
    of_plan = vars(Plan(run="")).keys() - {"run"}
    plan = Plan(run=str(run), **{k: v for k, v in record["config"].items() if k in of_plan})
    own = branch.plan(plan, record["levels"])
    with lightning_whispers():
        seed = plan.replicates()[0]
        parts = experiment.build(plan.seeds_of(seed).init, main.path, [], [])
        depth = own.depth(experiment.amounts) if branch.kind == "ladder" else 0
        lines = _Lines(branch, main, depth)
        if depth:
            check(parts, own, depth)
        check_levels(parts.trainer.callbacks, max(lines.basis().levels, default=0))
        start_together(parts.trainer, parts.module)
        del parts
    shown = ("save_every_n_steps", "report", "quiet")
    own = replace(own, **{name: getattr(branch, name) for name in shown})
    if not is_dry(experiment):
        return _run_branch(experiment, own, lines, main.branch(branch.name))
    with passing_folder() as folder:
        tree = RunTree(folder, "branch.json")
        return _run_branch(experiment, replace(own, report=False), lines, tree)


def _run_branch(experiment: Experiment, plan: Plan, lines: _Lines, tree: RunTree) -> RunTree:
    branch, main = lines.branch, lines.main
    rounds, left_out = from_leader(lines.rounds)
    parent = _parents(main, plan, branch, tree)
    from_leader(lambda: lines.must_be_whole(rounds, parent))
    used = ["kind", "draw", *(k for k, kinds in KNOBS.items() if branch.kind in kinds), "of"]
    kept = ("kind", "draw", "counts", "head")
    own = {name: getattr(branch, name) for name in used if name in kept or branch.given(name)}
    wanted = sum(left_out.values(), [*rounds])
    more = {
        "seeds": sorted({seed for seed, _ in wanted}),
        "rounds": sorted({lv for _, lv in wanted}),
    }
    config = {**experiment.config, "branch": own}
    from_leader(lambda: tree.begin(config, kind=branch.kind, **more))
    source = Source(experiment, branch, plan, main, lines.of, tree, parent)
    again = branch.kind == "reorder"
    loop = Loop(
        experiment,
        plan,
        tree,
        main,
        rounds,
        source.draw,
        parent,
        branch=branch.name,
        dry=is_dry(experiment),
        from_ticket=again,
        seeds_of=_reordered(plan, branch.draw) if again else plan.seeds_of,
        measure=source.measure_path if again else None,
        left_out=left_out,
    )
    loop.run(f"{main.path.name}, {branch.name}")
    return tree


def _reordered(plan: Plan, draw: int) -> Callable[[int], Seeds]:
    """Return the seeds of replicates that see the data in another order."""

    def seeds_of(replicate: int) -> Seeds:
        seeds = plan.seeds_of(replicate)
        order = mixed("reorder", seeds.order, draw)
        return replace(seeds, order=order, augmentation=mixed("reorder", seeds.augmentation, draw))

    return seeds_of


def _parents(
    main: RunTree, plan: Plan, branch: Branch, tree: RunTree
) -> Callable[[int, int], Path]:
    """Return what names the folder of the round that a ticket of a branch was pruned from."""
    if branch.of is not None:
        of = main.branch(branch.of)
        recorded = of.read()["config"]["branch"]
        source = Branch(branch.of, **{k: v for k, v in recorded.items() if k in vars(branch)})
        return _parents(main, source.plan(plan, 0), source, of)
    if branch.kind != "ladder":
        return lambda seed, level: main.round(seed, plan.parent(level) if level else 0)

    def parent(seed: int, level: int) -> Path:
        before = plan.parent(level) if level else 0
        return (tree if before else main).round(seed, before)

    return parent


@dataclass(frozen=True)
class _Lines:
    """A branch, and the finished rounds that it starts from."""

    branch: Branch
    main: RunTree
    depth: int

    @property
    def of(self) -> RunTree:
        """The line whose masks and tickets are used."""
        if self.branch.of is None:
            return self.main
        tree = self.main.branch(self.branch.of)
        if not tree.record.is_file():
            there = [p.parent.name for p in self.main.path.glob("branches/*/branch.json")]
            raise unknown("of", self.branch.of, there)
        return tree

    def basis(self) -> Basis:
        """Return what is finished that the branch may start from."""
        dense = {(r.seed, 0) for r in self.main.results() if r.round == 0}
        there = {(r.seed, r.round) for r in self.of.results()} | dense
        seeds = {seed for seed, _ in there} | self.astray()
        return Basis(self.branch, there, self.depth, seeds, self.main.read()["levels"])

    def rounds(self) -> tuple[list[At], dict[str, list[At]]]:
        """Return the rounds of the branch; and those that cannot be run, by what is to be said.

        Replicates that went astray before the rounds which the branch needs are left out.

        Raises:
            ValueError: If something else that it needs is not finished.
        """
        basis = self.basis()
        rounds, missing, astray = basis.rounds, basis.missing, self.astray()
        unfinished = [each for each in missing if each[0] not in astray]
        if unfinished or not rounds:
            raise ValueError(
                f"{self.of.path} has not finished {named(unfinished) or 'any round'}: finish it "
                "first, or choose other levels or seeds."
            )
        lost = sorted({seed for seed, _ in missing})
        left_out = {
            f"{self.branch.name}: seed {seed} is left out, of which {self.of.path} has no "
            f"{named_levels(missing, seed)}.": [each for each in rounds if each[0] == seed]
            for seed in lost
        }
        return [each for each in rounds if each[0] not in lost], left_out

    def astray(self) -> set[int]:
        """Return the replicates that went astray in a line that the branch starts from."""
        trees, of = {"": self.main}, self.branch.of
        while of is not None and of not in trees:
            trees[of] = self.main.branch(of)
            of = trees[of].read()["config"]["branch"].get("of")
        return {
            seed
            for tree in trees.values()
            for seed, _, folder in seeds_and_rounds(tree.path)
            if diverged_before(folder) and not (folder / FILE).is_file()
        }

    def must_be_whole(
        self, rounds: list[tuple[int, int]], parent: Callable[[int, int], Path]
    ) -> None:
        """Raise if something that the branch starts from is not as its round has left it."""
        folders = {self.main.round(seed, 0) for seed, _ in rounds}
        folders |= {parent(seed, level) for seed, level in rounds}
        if self.branch.kind not in OWN_MASKS:
            folders |= {self.of.round(seed, level) for seed, level in rounds if level}
        for folder in sorted(folders):
            if wrong := damage(folder):
                raise ValueError(
                    f"{wrong} `ltpl rounds` with the options of the run makes it again."
                )
