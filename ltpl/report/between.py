"""`Between`: the errors between two trainings of the same tickets, as the branches have left them.

As in Frankle et al. (2020), Linear mode connectivity and the lottery ticket hypothesis: the second
training sees the data in another order, and a network is stable if the error does not rise between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltpl.report.axes import sample
from ltpl.report.lines import Line, Run
from ltpl.report.looks import DASHES
from ltpl.report.pairs import density
from ltpl.report.spread import Spread
from ltpl.tickets.path import read_path, rise
from ltpl.tickets.result import round_folder

if TYPE_CHECKING:
    from matplotlib.artist import Artist

RAW = "raw_"  # before columns with the interpolated BatchNorm statistics
KINDS = {"val_error": "validation error", "train_error": "training error"}

Errors = dict[float, float]  # place on the line, 0 to 1 -> error in per cent


@dataclass(frozen=True)
class Between:
    """The errors along the line of one branch.

    Args:
        label: How the legend calls it.
        run: Its run.
        line: The branch.
        paths: By column, round and seed.
    """

    label: str
    run: Run
    line: Line
    paths: dict[str, dict[int, dict[int, Errors]]]

    @property
    def rounds(self) -> list[int]:
        """The rounds that have a path."""
        return sorted({number for levels in self.paths.values() for number in levels})

    def density(self, number: int) -> float:
        """Return the share of the weights left in a round, mean over the seeds that have a path."""
        seeds = {seed for levels in self.paths.values() for seed in levels.get(number, {})}
        return density([r for r in self.line.level(number) if r.seed in seeds])

    def along(self, column: str, number: int) -> dict[float, Spread]:
        """Return the error at each place of the line, over the seeds that have it."""
        seeds = list(self.paths.get(column, {}).get(number, {}).values())
        alphas = sorted({alpha for path in seeds for alpha in path})
        return {a: Spread(tuple(path[a] for path in seeds if a in path)) for a in alphas}

    def instability(self, column: str, number: int) -> Spread | None:
        """Return the instability of a round in points, over the seeds that have it."""
        return Spread.of(map(rise, self.paths.get(column, {}).get(number, {}).values()))


def between(runs: Sequence[Run]) -> list[Between]:
    """Return the branches that have paths.

    Args:
        runs: The runs.
    """
    found = []
    for run in runs:
        for line in run.lines:
            paths: dict[str, dict[int, dict[int, Errors]]] = {}
            for result in line.results:
                for column, path in read(
                    round_folder(line.folder, result.seed, result.round)
                ).items():
                    paths.setdefault(column, {}).setdefault(result.round, {})[result.seed] = path
            if paths:
                label = f"{run.name}: {line.title}" if len(runs) > 1 else line.title
                found.append(Between(label, run, line, paths))
    return found


def read(folder: Path) -> dict[str, Errors]:
    """Return the errors along the path of a round in per cent, by column, where it has both ends.

    Args:
        folder: The folder of the round; it may hold no path, or a file that is none.
    """
    try:
        points = read_path(folder)
    except (OSError, ValueError):
        return {}
    found = {}
    for column in [prefix + kind for kind in KINDS for prefix in ("", RAW)]:
        measured = [(point.alpha, getattr(point, column)) for point in points]
        errors = {a: 100 * e for a, e in measured if e is not None and 0 <= e <= 1}
        if {0.0, 1.0} <= errors.keys():
            found[column] = errors
    return found


def statistics(every: Sequence[Between]) -> str:
    """Return what a caption says of dashes, where there is BatchNorm."""
    columns = {column for b in every for column in b.paths}
    if not any(column.startswith(RAW) for column in columns):
        return ""
    return " Solid: BatchNorm statistics re-estimated at each place; dotted: interpolated too."


def entries(every: Sequence[Between]) -> list[tuple[str, Artist]]:
    """Return what a legend says of dashes, where there is BatchNorm."""
    if not statistics(every):
        return []
    return [("re-estimated", sample("-")), ("interpolated", sample(DASHES[2]))]
