"""What a ticket has cost: the epochs that were trained to find it, by way of pruning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ltpl.report.lines import Line, Run
from ltpl.report.score import Score
from ltpl.report.spread import Spread

KINDS = ("rewind", "lr_rewind", "finetune", "retrain", "one_shot", "ladder")
"""Branches that retrain what was pruned; controls are compared elsewhere."""


@dataclass(frozen=True)
class Point:
    """A level of a line.

    Args:
        density: Share of the prunable weights that are left, mean over seeds.
        score: Over the seeds.
        cost: Epochs that its search trained, mean over the same seeds; None if that is not known.
    """

    density: float
    score: Spread
    cost: float | None


@dataclass(frozen=True)
class Traded:
    """One line of the figure: a way of pruning and retraining.

    Args:
        label: How the legend calls it.
        one_shot: Whether each level was pruned from the dense network, not from the one before.
        points: From dense to sparse; the dense network is none of them.
        dense: Score of the dense network, in a run's main line.
    """

    label: str
    one_shot: bool
    points: list[Point]
    dense: Spread | None

    @property
    def costs(self) -> bool:
        """Whether the search cost of every level is known."""
        return all(point.cost is not None for point in self.points)


def traded(runs: Sequence[Run], measure: Score) -> list[Traded]:
    """Return the ways of pruning and retraining that were scored.

    Args:
        runs: The runs.
        measure: What is compared.
    """
    found = []
    for run in runs:
        dense = Spread.of(measure.of(result) for result in run.main.level(0))
        for line in run.lines:
            if line is not run.main and (line.kind or line.branch) not in KINDS:
                continue
            points = []
            for number in line.rounds:
                level = [r for r in line.level(number) if measure.of(r) is not None]
                score = Spread.of(measure.of(result) for result in level)
                density = sum(result.density for result in level) / max(1, len(level))
                if number and score and density:
                    costs = Spread.of(cost(run, line, result.seed, number) for result in level)
                    known = costs.mean if costs and costs.n == len(level) else None
                    points.append(Point(density, score, known))
            if points:
                points.sort(key=lambda point: -point.density)
                label = _label(run, line, len(runs) > 1)
                shown = dense if line is run.main else None
                found.append(Traded(label, is_one_shot(run, line), points, shown))
    return found


def cost(run: Run, line: Line, seed: int, number: int) -> float | None:
    """Return the epochs that were trained after the dense network to have this round.

    An iterative line has trained all rounds before it; a branch that retrains the main line's masks
    has needed those of the main line.

    Args:
        run: The run.
        line: Its main line or a branch.
        seed: The replicate.
        number: The round, from 1 on.

    Returns:
        None if one of them is missing or did not count its epochs.
    """
    source = line if (line.kind or line.branch) in (None, "ladder") else run.main
    alone = is_one_shot(run, line) or is_one_shot(run, source)
    needed = [(line, number)] + [(source, k) for k in range(1, number) if not alone]
    spent = {
        (id(each), result.round): result.epochs
        for each in (line, source)
        for result in each.results
        if result.seed == seed
    }
    epochs = [spent.get((id(each), k)) for each, k in needed]
    return sum(e for e in epochs if e is not None) if None not in epochs else None


def is_one_shot(run: Run, line: Line) -> bool:
    """Return whether each level of a line was pruned from the dense network."""
    if line is run.main:
        return _says_one_shot(run.record)
    kind = line.kind or line.branch
    if kind == "one_shot":
        return True
    try:
        record = json.loads((line.folder / "branch.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        record = {}
    return kind == "ladder" and _says_one_shot(record)


def _says_one_shot(record: Any) -> bool:
    """Return whether a record's config has the option, its own or that of its branch."""
    config = record.get("config") if isinstance(record, dict) else None
    if not isinstance(config, dict):
        return False
    branch = config.get("branch")
    return (branch if isinstance(branch, dict) and "one_shot" in branch else config).get(
        "one_shot"
    ) is True


def _label(run: Run, line: Line, several: bool) -> str:
    name = "ticket" if line.branch is None else line.branch
    policy = str(line.results[-1].made_by.get("policy", ""))
    if policy and policy != "dense" and policy not in name:
        name += f" ({policy})"
    return f"{run.name}: {name}" if several else name
