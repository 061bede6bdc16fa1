"""The figure of branches in training: validation against the step, a panel for each branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpl.report.axes import band_words, cut_words, entry_label, legend, mean_and_band
from ltpl.report.curves import Curve, curve, spread_over
from ltpl.report.lines import Line, Run
from ltpl.report.looks import INK, look
from ltpl.report.pictures import Picture, Sheet, picture
from ltpl.report.training import KINDS, around_the_best, outside

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12
MOST_ROUNDS = 4


@dataclass(frozen=True)
class Panel:
    """A branch and its rounds in training.

    Args:
        title: How the panel is called.
        curves: By round; 0 is the dense network of the run.
    """

    title: str
    curves: dict[int, Curve]


def trajectories(runs: Sequence[Run], rounds: Sequence[int] | None = None) -> Picture | None:
    """Return the curves of branches; None if none of their rounds has any.

    Args:
        runs: The runs.
        rounds: Which rounds; the first, the last and some between if not given.
    """
    for kind in KINDS:
        every = [panel for run in runs for panel in _panels(run, kind, rounds, len(runs) > 1)]
        if every:
            break
    else:
        return None
    panels = every[:MOST]
    curves = [each for panel in panels for each in panel.curves.values()]
    spreads = [spread for each in curves for spread in each.spreads]
    limits = around_the_best(curves, kind)
    more = f" {MOST} of {len(every)} branches are drawn." if len(every) > MOST else ""
    caption = (
        f"{KINDS[kind].capitalize()} of the rounds of each branch; at step 0 the network is pruned "
        f"and not yet retrained. {band_words(spreads)}{outside({kind: curves}, {kind: limits})}"
        f"{cut_words(spreads, limits)}{more}"
    )
    return picture(
        "trajectories",
        "Branches during training",
        caption,
        lambda figure, sheet: _draw(figure, sheet, panels, kind, limits),
        wide=(7.4, 0.9 + 1.75 * -(-len(panels) // 3)),
        narrow=(3.9, 1.2 + 1.6 * -(-len(panels) // 2)),
    )


def _panels(run: Run, kind: str, rounds: Sequence[int] | None, several: bool) -> list[Panel]:
    dense = curve(run.main, 0, kind)
    found = []
    for line in run.branches:
        numbers = [n for n in line.rounds if rounds is None or n in rounds]
        curves = _curves(line, spread_over(numbers, MOST_ROUNDS), kind)
        if curves:
            title = f"{run.name}: {line.branch}" if several else str(line.branch)
            found.append(Panel(title, ({0: dense} if dense else {}) | curves))
    return found


def _curves(line: Line, numbers: Sequence[int], kind: str) -> dict[int, Curve]:
    return {n: found for n in numbers if (found := curve(line, n, kind))}


def _draw(
    figure: Figure, sheet: Sheet, panels: Sequence[Panel], kind: str, limits: tuple[float, float]
) -> None:
    columns = min(len(panels), 2 if sheet.narrow else 3)
    numbers = sorted({number for panel in panels for number in panel.curves})
    entries: dict[int, Artist] = {}
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(-(-len(panels) // columns), columns, place + 1)
        entries |= _draw_panel(axes, panel, numbers)
        axes.set_ylim(*limits)
        if place % columns:
            axes.set_yticklabels([])
        else:
            percent = next(iter(panel.curves.values())).percent
            axes.set_ylabel(f"val {kind}" + (" (%)" if percent else ""))
    named = [("dense" if n == 0 else f"round {n}", entries[n]) for n in numbers]
    legend(figure, named, sheet.width)


def _draw_panel(axes: Axes, panel: Panel, numbers: Sequence[int]) -> dict[int, Artist]:
    from matplotlib.ticker import MaxNLocator

    drawn: dict[int, Artist] = {}
    for number, line in panel.curves.items():
        drawn[number] = mean_and_band(
            axes,
            line.steps,
            line.spreads,
            alpha=0.12,
            color=INK if number == 0 else look(numbers.index(number) - (0 in numbers)).colour,
            linewidth=1.2,
        )
    axes.set_title(entry_label(panel.title), fontsize=8.5, loc="left")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return drawn
