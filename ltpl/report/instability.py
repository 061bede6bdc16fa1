"""Figures of instability: against density, and against the step that trainings part from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpl.report.axes import band_words, density_axis, legend, mean_and_band, step_axis
from ltpl.report.between import KINDS, RAW, Between, between, entries, statistics
from ltpl.report.curves import spread_over
from ltpl.report.levels import by_density
from ltpl.report.lines import Run
from ltpl.report.looks import DASHES, INK, PAPER, Look, look
from ltpl.report.pictures import Picture, Sheet, picture
from ltpl.report.rewinding_point import rewinding_point, steps_until, tickets_of
from ltpl.report.roles import CONTROLS
from ltpl.report.spread import Spread, per_cent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STABLE = 2.0  # per cent, below which the authors call a network stable
MOST_DENSITIES = 4


@dataclass(frozen=True)
class Unstable:
    """Instabilities that are one line of a figure.

    Args:
        label: How the legend calls it.
        look: Colour and marker.
        points: Place on the axis, and the branch and round that were measured.
    """

    label: str
    look: Look
    points: list[tuple[float, Between, int]]

    def curve(self, column: str) -> dict[float, Spread]:
        """Return the instability at each place that has one."""
        found = ((x, branch.instability(column, number)) for x, branch, number in self.points)
        return {x: spread for x, spread in found if spread}


def by_weights_left(runs: Sequence[Run]) -> Picture | None:
    """Return the instability against density; None if there is no path.

    Args:
        runs: The runs; each branch with paths is a line.
    """
    every = between(runs)
    kind = measured(every)
    every = [b for b in every if {kind, RAW + str(kind)} & b.paths.keys()]
    if kind is None:
        return None
    lines = [
        Unstable(b.label, look(order), [(b.density(n), b, n) for n in b.rounds])
        for order, b in enumerate(every)
    ]
    return _picture("instability", "Instability against density", lines, kind, density_axis)


def by_rewinding_point(runs: Sequence[Run], rounds: Sequence[int] | None = None) -> Picture | None:
    """Return the instability against the rewinding step; None if no run has two of them.

    Args:
        runs: The runs; each density is a line.
        rounds: Which rounds; the dense network, the sparsest and some between if not given.
    """
    every = between(runs)
    kind = measured(every)
    if kind is None:
        return None
    lines: list[Unstable] = []
    twice = False
    for run in runs:
        points, more = _rewound([b for b in every if b.run is run], kind, rounds)
        twice |= more
        found = by_density((b.density(n), str(step), (step, b, n)) for step, b, n in points)
        for k in spread_over(range(len(found)), MOST_DENSITIES):
            density, at = found[k]
            label = "dense" if density == 1 else f"{per_cent(density)} % left"
            label = f"{run.name}: {label}" if len(runs) > 1 else label
            style = look(len(lines) - (len(runs) == 1 and found[0][0] == 1))
            if density == 1 and len(runs) == 1:
                style = Look(INK, "o", "-")
            lines.append(Unstable(label, style, sorted(at.values(), key=lambda point: point[0])))
    if not lines:
        return None
    return _picture(
        "instability_rewind",
        "Instability against the rewinding step",
        lines,
        kind,
        step_axis,
        " Both trainings are one until that step."
        + " Of branches that part at the same step the first is drawn." * twice,
    )


def measured(every: Sequence[Between]) -> str | None:
    """Return the kind of error that instability is taken of; None if there is none."""
    columns = {column for b in every for column in b.paths}
    return next((kind for kind in KINDS if {kind, RAW + kind} & columns), None)


def _rewound(
    branches: Sequence[Between], kind: str, rounds: Sequence[int] | None
) -> tuple[list[tuple[int, Between, int]], bool]:
    """Return step, branch and round of each measurement, and whether some were left out as twice.

    There are none unless they are of two steps.
    """
    found: dict[tuple[int, int], tuple[int, Between, int]] = {}
    twice = False
    for branch in branches:
        for number in branch.rounds:
            if tickets_of(branch.run, branch.line).does in CONTROLS and number:
                continue
            point = rewinding_point(branch.run, branch.line, number)
            step = steps_until(branch.run, point) if point else None
            has = branch.instability(kind, number) or branch.instability(RAW + kind, number)
            if step is None or not has or (rounds is not None and number not in rounds):
                continue
            twice |= (step, number) in found
            found.setdefault((step, number), (step, branch, number))
    several = len({step for step, _ in found}) > 1
    return (list(found.values()), twice) if several else ([], False)


def _picture(
    name: str,
    title: str,
    lines: Sequence[Unstable],
    kind: str,
    axis: Callable[[Axes, Sequence[float], float], None],
    more: str = "",
) -> Picture:
    every = [branch for line in lines for _, branch, _ in line.points]
    spreads = [s for line in lines for c in (kind, RAW + kind) for s in line.curve(c).values()]
    caption = (
        f"Instability: the largest {KINDS[kind]} on the line between two trainings of the same "
        "ticket, minus the mean of both ends. Below 2 percentage points, dashed, Frankle et al. "
        f"call a network stable.{more} {band_words(spreads)}{statistics(every)}"
    )

    def draw(figure: Figure, sheet: Sheet) -> None:
        axes = figure.add_subplot()
        drawn: dict[str, Artist] = {}
        places: list[float] = []
        for line in lines:
            for column, dashes in ((RAW + kind, DASHES[2]), (kind, "-")):
                if curve := line.curve(column):
                    places += curve
                    drawn[line.label] = mean_and_band(
                        axes,
                        list(curve),
                        list(curve.values()),
                        color=line.look.colour,
                        marker=line.look.marker,
                        markerfacecolor=line.look.colour if column == kind else PAPER,
                        linestyle=dashes,
                    )
        stable = axes.axhline(STABLE, color=INK, linestyle=(0, (4, 3)), linewidth=1)
        axis(axes, places, sheet.width)
        axes.set_ylabel("instability (percentage points)")
        legend(figure, [*drawn.items(), *entries(every), ("2 points", stable)], sheet.width)

    return picture(name, title, caption, draw)
