"""The loop: for each seed and level one round, and nothing that is finished is done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ltpl.report import as_text, read_runs, report, rows
from ltpl.rounds.basis import At, named
from ltpl.rounds.experiment import Experiment, Parts
from ltpl.rounds.finite import FILE as DIVERGED
from ltpl.rounds.finite import Astray, Diverged, diverged_before
from ltpl.rounds.leaving import leaving, lightning_whispers
from ltpl.rounds.plan import Plan
from ltpl.rounds.progress import Display
from ltpl.rounds.ranks import from_leader, leads
from ltpl.rounds.round import Round
from ltpl.rounds.seeds import Seeds
from ltpl.rounds.stop import Stop
from ltpl.rounds.summary import write_events
from ltpl.rounds.tree import RunTree
from ltpl.tickets.lineage import Lineage
from ltpl.tickets.result import Result
from ltpl.tickets.ticket import Ticket


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
        parent: Returns the folder of the round that another was pruned from.
        branch: Name of the branch; None for the main line.
        dry: Whether nothing of this will stay.
        from_ticket: Whether round 0 starts from a ticket too.
        seeds_of: Returns the seeds of a replicate; those of the plan if not given.
        measure: What else is measured of a round that has trained.
        left_out: Rounds that cannot be run, by what is to be said of them.
    """

    experiment: Experiment
    plan: Plan
    tree: RunTree
    main: RunTree
    rounds: list[tuple[int, int]]
    draw: Callable[[Parts, int, int, Stop], Ticket]
    parent: Callable[[int, int], Path]
    branch: str | None = None
    dry: bool = False
    from_ticket: bool = False
    seeds_of: Callable[[int], Seeds] | None = None
    measure: Callable[[Parts, int, int], None] | None = None
    left_out: Mapping[str, list[At]] = field(default_factory=dict)

    def run(self, title: str) -> None:
        """Run what is not finished; show what came out.

        Args:
            title: What to call it.

        Raises:
            Astray: If a replicate went astray; the others are finished then.
        """
        seeds = sorted({seed for seed, _ in self.rounds})
        stop = Stop(leads())
        with ExitStack() as held:
            from_leader(lambda: held.enter_context(self.tree.at_work(seeds)))
            told = from_leader(lambda: [*self._damaged()])
            done = from_leader(lambda: {(r.seed, r.round) for r in self.tree.results()})
            todo = [each for each in self.rounds if each not in done]
            last = max((level for _, level in self.rounds), default=0)
            display = Display(title, len(todo), last, self.plan.quiet)
            for line in [*self.left_out, *told]:
                display.line(line)
            if finished := len(self.rounds) - len(todo):
                left = f"{len(todo)} are left"
                display.line(f"{self.tree.path}: {finished} rounds are finished, {left}")
            with (
                display.live(),
                lightning_whispers(),
                leaving(display, stop, self.experiment.again),
                stop.listening(),
            ):
                astray = self._run(todo, display, stop)
                self._summarise()
        if leads() and self.main.results():
            files = [self.tree.path / "summary.csv"] if self.rounds else []
            if self.plan.report:
                files.append(report(self.main.path))
            table = rows(read_runs([self.main.path]))
            shown = [row for row in table if row.branch in (None, self.branch)]
            display.line(as_text(shown, [] if self.dry else files))
        if astray or self.left_out:
            raise Astray(astray, [self._missing()])

    def _missing(self) -> str:
        """Return which rounds are not there although they were wanted."""
        done = {(r.seed, r.round) for r in self.tree.results()}
        wanted = sum(self.left_out.values(), [*self.rounds])
        left = named(sorted(each for each in wanted if each not in done))
        return left if self.branch is None else f"{self.branch}: {left}"

    def _damaged(self) -> Iterator[str]:
        """Make unfinished what is not as its round has left it; say so."""
        for seed, level in self.rounds:
            if wrong := self.tree.damage(seed, level):
                self.tree.put_aside(seed, level)
                yield f"{wrong} Seed {seed} round {level} is run again."

    def _run(self, todo: list[tuple[int, int]], display: Display, stop: Stop) -> list[str]:
        """Run rounds; return what is to be said of replicates that went astray."""
        astray: dict[int, str] = {}
        for seed, level in todo:
            if seed in astray:
                continue
            folder = self.tree.round(seed, level)
            where = f"seed {seed} round {level}"
            if before := from_leader(partial(diverged_before, folder)):
                astray[seed] = f"{where}: {before}"
                display.line(f"{astray[seed]}. Left out; without {folder / DIVERGED} it is tried.")
                continue
            try:
                display.ends(self._round(seed, level, display, stop))
            except Diverged as error:
                if leads():
                    error.save(folder)
                astray[seed] = f"{where}: {error}"
                display.line(f"{astray[seed]}; the replicate ends here")
            self._summarise()
        return list(astray.values())

    def _summarise(self) -> None:
        """Write `summary.csv` and `summary/` over what is finished."""
        if leads() and self.rounds:
            self.tree.write_summary()
            write_events(self.tree.path / "summary", self.tree.results())

    def _round(self, seed: int, level: int, display: Display, stop: Stop) -> Result:
        lineage = self._lineage(seed, level)
        seeds = (self.seeds_of or self.plan.seeds_of)(seed)
        one = Round(self.experiment, self.plan, lineage, seeds, display, stop)
        if level == 0 and not self.from_ticket:
            made_by, density = one.dense(), 1.0
        else:
            ticket = one.ticket(lambda parts: self.draw(parts, seed, level, stop))
            made_by, density = ticket.made_by, ticket.mask.density
        display.starts(seed, level, density, one.checkpoint[1] if one.checkpoint else 0)
        one.train()
        if self.measure is not None:
            self.measure(one.parts, seed, level)
        return one.judge(made_by)

    def _lineage(self, seed: int, level: int) -> Lineage:
        first = level == 0
        return Lineage(
            seed=seed,
            level=level,
            folder=self.tree.round(seed, level),
            dense=None if first and self.branch is None else self.main.round(seed, 0),
            previous=None if first else self.parent(seed, level),
            branch=self.branch,
        )
