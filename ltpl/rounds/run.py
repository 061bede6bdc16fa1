"""The loop: for each seed and level one round, and nothing that is finished is done again."""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from ltpl.masks.mask import Mask
from ltpl.report import as_text, read_runs, report, rows
from ltpl.rounds.draw import check, next_mask, next_start, prepare
from ltpl.rounds.experiment import Experiment, Parts
from ltpl.rounds.plan import Plan
from ltpl.rounds.progress import Display
from ltpl.rounds.ranks import leads
from ltpl.rounds.round import Round
from ltpl.rounds.seeds import mixed
from ltpl.rounds.summary import write_events
from ltpl.rounds.tree import RunTree
from ltpl.tickets.lineage import Lineage
from ltpl.tickets.result import Result
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
    """
    if is_dry(experiment):  # touches no file of yours
        with tempfile.TemporaryDirectory(prefix="ltpl-") as folder:
            return _run_rounds(experiment, replace(plan, run=folder, report=False), seeds)
    return _run_rounds(experiment, plan, seeds)


def is_dry(experiment: Experiment) -> bool:
    """Whether every fit is to try one batch and leave nothing behind."""
    return bool((experiment.config.get("trainer") or {}).get("fast_dev_run"))


def _run_rounds(experiment: Experiment, plan: Plan, seeds: list[int]) -> RunTree:
    tree, depth = RunTree(plan.run), plan.depth(experiment.amounts)
    with lightning_whispers():
        parts = experiment.build(plan.seeds_of(seeds[0]).init, tree.path, [], [])
        check(parts, plan, depth)
        controls = _controls(parts)
        del parts  # which may be large
    options = {name: value for name, value in vars(plan).items() if name != "run"}
    if leads():
        tree.begin({**experiment.config, **options}, levels=depth, seeds=seeds)
    rounds = [(seed, level) for seed in seeds for level in range(depth + 1)]
    draw = _Next(experiment, plan, tree).draw
    dry = is_dry(experiment)
    Loop(experiment, plan, tree, tree, rounds, draw, dry=dry).run(tree.path.name)
    for name in controls if depth else ():
        _run_control(experiment, plan, name, f"1-{depth}", ",".join(map(str, seeds)))
    return tree


def _controls(parts: Parts) -> list[str]:
    """Return the branches that callbacks ask for by naming a `control_branch`."""
    names = [getattr(callback, "control_branch", None) for callback in parts.trainer.callbacks]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _run_control(experiment: Experiment, plan: Plan, name: str, levels: str, seeds: str) -> None:
    from ltpl.rounds.branches import Branch, run_branch  # they are built on this loop

    shown = {option: getattr(plan, option) for option in ("save_every_n_steps", "report", "quiet")}
    run_branch(experiment, Branch(name, "retrain", levels, seeds, **shown), plan.run)


@dataclass(frozen=True)
class Loop:
    """Rounds of a run or of a branch.

    Args:
        experiment: Builds each round.
        plan: How a round is judged.
        tree: Where everything goes.
        main: The run, which is reported at the end; another tree than that of a branch.
        rounds: Seed and level of each round.
        draw: Returns the ticket of a round that has none yet.
        branch: Name of the branch; None for the main line.
        dry: Whether nothing of this will stay.
    """

    experiment: Experiment
    plan: Plan
    tree: RunTree
    main: RunTree
    rounds: list[tuple[int, int]]
    draw: Callable[[Parts, int, int], Ticket]
    branch: str | None = None
    dry: bool = False

    def run(self, title: str) -> None:
        """Run what is not finished; show what came out.

        Args:
            title: What to call it.
        """
        todo = [each for each in self.rounds if self.tree.result(*each) is None]
        last = max(level for _, level in self.rounds)
        display = Display(title, len(todo), last, self.plan.quiet)
        if done := len(self.rounds) - len(todo):
            display.line(f"{self.tree.path}: {done} rounds are finished, {len(todo)} are left")
        with display.live(), lightning_whispers(), _told_what_next(display):
            for seed, level in todo:
                with self.tree.at_work(seed) if leads() else nullcontext():
                    result = self.tree.result(seed, level) or self._round(seed, level, display)
                display.ends(result)
                self._summarise()
        self._summarise()
        if leads():
            files = [self.tree.path / "summary.csv"]
            if self.plan.report:
                files.append(report(self.main.path))
            display.line(as_text(rows(read_runs([self.main.path])), [] if self.dry else files))

    def _summarise(self) -> None:
        """Write `summary.csv` and `summary/` over what is finished."""
        if leads():
            self.tree.write_summary()
            write_events(self.tree.path / "summary", self.tree.results())

    def _round(self, seed: int, level: int, display: Display) -> Result:
        lineage = self._lineage(seed, level)
        one = Round(self.experiment, self.plan, lineage, self.plan.seeds_of(seed), display)
        if level == 0:
            made_by, density = one.dense(), 1.0
        else:
            ticket = one.ticket(lambda parts: self.draw(parts, seed, level))
            made_by, density = ticket.made_by, ticket.mask.density
        display.starts(seed, level, density, one.checkpoint[1] if one.checkpoint else 0)
        one.train()
        return one.judge(made_by)

    def _lineage(self, seed: int, level: int) -> Lineage:
        first = level == 0
        return Lineage(
            seed=seed,
            level=level,
            folder=self.tree.round(seed, level),
            dense=None if first and self.branch is None else self.main.round(seed, 0),
            previous=None if first else self.main.round(seed, self.plan.parent(level)),
            branch=self.branch,
        )


@dataclass(frozen=True)
class _Next:
    """Draws the tickets of a run's main line: each from the round before."""

    experiment: Experiment
    plan: Plan
    tree: RunTree

    def draw(self, parts: Parts, seed: int, level: int) -> Ticket:
        parent, seeds = self.tree.round(seed, self.plan.parent(level)), self.plan.seeds_of(seed)
        trained, before = Snapshot.load(parent / FINAL), Mask.load(parent / MASK)
        mask = next_mask(parts, self.plan, level, trained, before, mixed(seeds.mask, level))
        return next_start(
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


def fresh(experiment: Experiment, folder: Path, seed: int) -> Snapshot:
    """Return a network with other initial weights."""
    parts = experiment.build(seed, folder, [], [])
    prepare(parts)
    return Snapshot.take("0ep", parts.module)


@contextmanager
def _told_what_next(display: Display) -> Iterator[None]:
    """Say how to go on after Ctrl-C or SIGTERM, and exit as shells expect it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        display.error("Interrupted: the same command goes on from the last checkpoint.")
        by_hand = isinstance(stopped.__context__ or stopped, KeyboardInterrupt)
        sys.exit(128 + (signal.SIGINT if by_hand else signal.SIGTERM))


@contextmanager
def lightning_whispers() -> Iterator[None]:
    """Hide what Lightning says at the start and end of every fit; warnings come through once."""
    names = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")
    loggers = [logging.getLogger(name) for name in (*names, "lightning_utilities.core.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*is smaller than the logging interval.*")
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")  # see EpochSeeds
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
