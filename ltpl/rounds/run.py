"""Finding tickets: each from the round before, in a tree that tells what is done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from ltpl.masks.mask import Mask
from ltpl.rounds.draw import check, next_mask, next_start, prepare
from ltpl.rounds.evaluate import validated_as_pruned
from ltpl.rounds.experiment import Experiment, Parts
from ltpl.rounds.finite import do_all
from ltpl.rounds.leaving import lightning_whispers
from ltpl.rounds.loop import Loop
from ltpl.rounds.plan import Plan
from ltpl.rounds.ranks import from_leader, leads, must_agree, start_together
from ltpl.rounds.seeds import mixed
from ltpl.rounds.stop import Stop
from ltpl.rounds.tree import RunTree
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.ticket import FINAL, MASK, START, Ticket


def run_rounds(experiment: Experiment, plan: Plan, seeds: list[int]) -> RunTree:
    """Find tickets: for each seed a dense network and prunings of it.

    Args:
        experiment: Builds each round.
        plan: Levels, seeds and how a round is judged.
        seeds: Replicates.

    Raises:
        ValueError: If the folder holds something else, or a run with other options.
        Astray: If a replicate went astray; the others are finished then.
    """
    depth = plan.depth(experiment.amounts)
    with lightning_whispers():
        parts = experiment.build(plan.seeds_of(seeds[0]).init, Path(plan.run), [], [])
        check(parts, plan, depth)
        controls = _controls(parts)
        start_together(parts.trainer, parts.module)
        del parts  # which may be large
    if not is_dry(experiment):
        return _run_rounds(experiment, plan, seeds, controls)
    with passing_folder() as folder:  # touches no file of yours
        return _run_rounds(experiment, replace(plan, run=folder, report=False), seeds, controls)


def is_dry(experiment: Experiment) -> bool:
    """Whether every fit is to try one batch and leave nothing behind."""
    return bool((experiment.config.get("trainer") or {}).get("fast_dev_run"))


@contextmanager
def passing_folder() -> Iterator[str]:
    """Yield a folder that all processes share, and that is gone afterwards."""
    folder = from_leader(lambda: tempfile.mkdtemp(prefix="ltpl-"))
    try:
        yield folder
    finally:
        if leads():
            shutil.rmtree(folder, ignore_errors=True)


def _run_rounds(
    experiment: Experiment, plan: Plan, seeds: list[int], controls: list[str]
) -> RunTree:
    tree, depth = RunTree(plan.run), plan.depth(experiment.amounts)
    options = {name: value for name, value in asdict(plan).items() if name != "run"}
    config = {**experiment.config, **options}
    from_leader(lambda: tree.begin(config, levels=depth, seeds=seeds))
    seen = tree.record.is_file() and tree.read().get("digest")
    must_agree(str(tree.record), seen or "no such file")
    rounds = [(seed, level) for seed in seeds for level in range(depth + 1)]
    draw = _Next(experiment, plan, tree)
    dry = is_dry(experiment)
    loop = Loop(experiment, plan, tree, tree, rounds, draw.draw, draw.parent, dry=dry)
    levels, replicates = f"1-{depth}", ",".join(map(str, seeds))
    follow = partial(_run_control, experiment, plan, levels, replicates)
    do_all([lambda: loop.run(tree.path.name), *(partial(follow, n) for n in controls if depth)])
    return tree


def _controls(parts: Parts) -> list[str]:
    """Return the branches that callbacks ask for by naming a `control_branch`."""
    names = [getattr(callback, "control_branch", None) for callback in parts.trainer.callbacks]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _run_control(experiment: Experiment, plan: Plan, levels: str, seeds: str, name: str) -> None:
    from ltpl.rounds.branch import Branch  # they are built on this loop
    from ltpl.rounds.branches import run_branch

    shown = {option: getattr(plan, option) for option in ("save_every_n_steps", "report", "quiet")}
    run_branch(experiment, Branch(name, "retrain", levels, seeds, **shown), plan.run)


@dataclass(frozen=True)
class _Next:
    """Draws the tickets of a run's main line: each from the round before."""

    experiment: Experiment
    plan: Plan
    tree: RunTree

    def parent(self, seed: int, level: int) -> Path:
        return self.tree.round(seed, self.plan.parent(level))

    def draw(self, parts: Parts, seed: int, level: int, stop: Stop) -> Ticket:
        parent, seeds = self.parent(seed, level), self.plan.seeds_of(seed)
        trained, before = Snapshot.load(parent / FINAL), Mask.load(parent / MASK)
        mask = next_mask(parts, self.plan, level, trained, before, mixed(seeds.mask, level))
        pruned = validated_as_pruned(parts, mask)
        ticket = next_start(
            parts.rewinder,
            mask,
            Snapshot.load(self.tree.round(seed, 0) / START),
            trained,
            lambda: fresh(
                self.experiment,
                self.tree.round(seed, level),
                mixed("reinit", seeds.init, level),
            ),
            mixed(seeds.mask, parts.rewinder.seed, level),
        )
        return replace(ticket, made_by={**ticket.made_by, "pruned": pruned})


def fresh(experiment: Experiment, folder: Path, seed: int) -> Snapshot:
    """Return a network with other initial weights."""
    parts = experiment.build(seed, folder, [], [])
    prepare(parts)
    return Snapshot.take("0ep", parts.module)
