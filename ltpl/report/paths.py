"""Figures of interpolation paths: the error between two trainings from the same ticket.

As in Frankle et al. (2020), Linear mode connectivity and the lottery ticket hypothesis: the second
training sees the data in another order, and a network is stable if the error does not rise between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ltpl.report.axes import band_words, density_axis, legend, mean_and_band, sample
from ltpl.report.cells import as_number, whole_rows
from ltpl.report.curves import spread_over
from ltpl.report.lines import Line, Run
from ltpl.report.looks import DASHES, INK, PAPER, look
from ltpl.report.pictures import Picture, Sheet, picture
from ltpl.report.spread import Spread
from ltpl.report.training import of_round
from ltpl.tickets.result import round_folder

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

FILE = "path.csv"
STABLE = 2.0  # per cent, below which the authors call a network stable
RAW = "raw_"  # before columns with the interpolated BatchNorm statistics
KINDS = {"val_error": "validation error", "train_error": "training error"}
MOST_ROUNDS = 4

Errors = dict[float, float]  # place on the line, 0 to 1 -> error in per cent


@dataclass(frozen=True)
class Between:
    """The errors along the line of one branch.

    Args:
        label: How the legend calls it.
        line: The branch.
        paths: By column, round and seed.
    """

    label: str
    line: Line
    paths: dict[str, dict[int, dict[int, Errors]]]

    @property
    def rounds(self) -> list[int]:
        """The rounds that have a path."""
        return sorted({number for levels in self.paths.values() for number in levels})

    def along(self, column: str, number: int) -> dict[float, Spread]:
        """Return the error at each place of the line, over the seeds that have it."""
        seeds = list(self.paths.get(column, {}).get(number, {}).values())
        alphas = sorted({alpha for path in seeds for alpha in path})
        return {a: Spread(tuple(path[a] for path in seeds if a in path)) for a in alphas}

    def instabilities(self, column: str) -> list[tuple[float, Spread]]:
        """Return density and instability of each round, over the seeds that have it."""
        found = []
        for number, seeds in sorted(self.paths.get(column, {}).items()):
            level = [r for r in self.line.level(number) if r.seed in seeds]
            density = sum(result.density for result in level) / len(level)
            found.append((density, Spread(tuple(map(instability, seeds.values())))))
        return found


def instability(path: Errors) -> float:
    """Return how far the error rises above the mean of both ends.

    Example:
        >>> instability({0.0: 2.0, 0.5: 10.0, 1.0: 4.0})
        7.0
    """
    return max(path.values()) - (path[0.0] + path[1.0]) / 2


def paths(runs: Sequence[Run], rounds: Sequence[int] | None = None) -> Picture | None:
    """Return the error along the line, for chosen rounds; None if there is no path.

    Args:
        runs: The runs; the first branch with paths is drawn.
        rounds: Which rounds; the first, the last and some between if not given.
    """
    every = [b for b in between(runs) if rounds is None or set(rounds) & set(b.rounds)]
    if not every:
        return None
    first = every[0]
    wanted = [n for n in first.rounds if rounds is None or n in rounds]
    shown = spread_over(wanted, MOST_ROUNDS)
    kinds = [k for k in KINDS if k in first.paths or RAW + k in first.paths]
    spreads = [
        spread
        for column in first.paths
        for number in shown
        for spread in first.along(column, number).values()
    ]
    of = f" Of {len(every)} branches the first is drawn, {first.label}." if len(every) > 1 else ""
    caption = (
        "Error of the networks on the line between the ends of two trainings of the same ticket "
        f"on differently ordered data. {band_words(spreads)}{_statistics([first])}{of}"
    )
    return picture(
        "paths",
        "Error between two trainings of one ticket",
        caption,
        lambda figure, sheet: _draw_paths(figure, sheet, first, kinds, shown),
        wide=(7.4, 3.9),
        narrow=(3.9, 1.2 + 2.6 * len(kinds)),
    )


def instabilities(runs: Sequence[Run]) -> Picture | None:
    """Return the instability against density; None if there is no path.

    Args:
        runs: The runs; each branch with paths is a line.
    """
    every = between(runs)
    kind = next((k for k in KINDS if any(k in b.paths or RAW + k in b.paths for b in every)), None)
    if kind is None:
        return None
    every = [b for b in every if kind in b.paths or RAW + kind in b.paths]
    spreads = [
        spread for b in every for c in (kind, RAW + kind) for _, spread in b.instabilities(c)
    ]
    caption = (
        f"Instability: the largest {KINDS[kind]} on the line between two trainings of the same "
        "ticket, minus the mean of both ends. Below 2 percentage points, dashed, Frankle et al. "
        f"call a network stable. {band_words(spreads)}{_statistics(every)}"
    )
    return picture(
        "instability",
        "Instability against density",
        caption,
        lambda figure, sheet: _draw_instabilities(figure, sheet, every, kind),
    )


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
                folder = round_folder(line.folder, result.seed, result.round)
                for column, path in read(folder / FILE).items():
                    paths.setdefault(column, {}).setdefault(result.round, {})[result.seed] = path
            if paths:
                label = f"{run.name}: {line.title}" if len(runs) > 1 else line.title
                found.append(Between(label, line, paths))
    return found


def read(path: Path) -> dict[str, Errors]:
    """Return the errors of a `path.csv` in per cent, by column; only whole lines with both ends.

    Args:
        path: The file; it may be missing.
    """
    header, rows = whole_rows(path)
    if "alpha" not in header:
        return {}
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    found = {}
    for column in [prefix + kind for kind in KINDS for prefix in ("", RAW)]:
        numbers = [(as_number(row["alpha"]), as_number(row.get(column, ""))) for row in cells]
        errors = {a: 100 * e for a, e in numbers if a is not None and e is not None and 0 <= e <= 1}
        if {0.0, 1.0} <= errors.keys() and min(errors) >= 0 and max(errors) <= 1:
            found[column] = errors
    return found


def _statistics(every: Sequence[Between]) -> str:
    """Return what dashes mean, where there is BatchNorm."""
    columns = {column for b in every for column in b.paths}
    if not any(column.startswith(RAW) for column in columns):
        return ""
    return " Solid: BatchNorm statistics re-estimated at each place; dotted: interpolated too."


def _entries(every: Sequence[Between]) -> list[tuple[str, Artist]]:
    if not _statistics(every):
        return []
    return [("re-estimated", sample("-")), ("interpolated", sample(DASHES[2]))]


def _draw_paths(
    figure: Figure, sheet: Sheet, first: Between, kinds: Sequence[str], shown: Sequence[int]
) -> None:
    entries: dict[str, Artist] = {}
    for position, kind in enumerate(kinds):
        shape = (len(kinds), 1) if sheet.narrow else (1, len(kinds))
        axes = figure.add_subplot(*shape, position + 1)
        for number in shown:
            label, colour = of_round(first.line, number, shown)
            for column, dashes in ((RAW + kind, DASHES[2]), (kind, "-")):
                if along := first.along(column, number):
                    entries[label] = mean_and_band(
                        axes,
                        list(along),
                        list(along.values()),
                        alpha=0.12,
                        color=colour,
                        linestyle=dashes,
                        linewidth=1.5,
                    )
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes.set_xlabel("interpolation")
        axes.set_ylabel(f"{KINDS[kind]} (%)")
    legend(figure, [*entries.items(), *_entries([first])], sheet.width)


def _draw_instabilities(figure: Figure, sheet: Sheet, every: Sequence[Between], kind: str) -> None:
    axes = figure.add_subplot()
    entries: dict[str, Artist] = {}
    drawn: list[float] = []
    for number, branch in enumerate(every):
        style = look(number)
        for column, dashes in ((RAW + kind, DASHES[2]), (kind, "-")):
            if levels := branch.instabilities(column):
                drawn += [density for density, _ in levels]
                entries[branch.label] = mean_and_band(
                    axes,
                    [density for density, _ in levels],
                    [spread for _, spread in levels],
                    color=style.colour,
                    marker=style.marker,
                    markerfacecolor=style.colour if column == kind else PAPER,
                    linestyle=dashes,
                )
    stable = axes.axhline(STABLE, color=INK, linestyle=(0, (4, 3)), linewidth=1)
    density_axis(axes, drawn, sheet.width)
    axes.set_ylabel("instability (percentage points)")
    legend(figure, [*entries.items(), *_entries(every), ("2 points", stable)], sheet.width)
