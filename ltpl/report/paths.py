"""The figure of paths: the error between two trainings of the same ticket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltpl.report.axes import band_words, legend, mean_and_band
from ltpl.report.between import KINDS, RAW, Between, between, entries, statistics
from ltpl.report.curves import spread_over
from ltpl.report.lines import Run
from ltpl.report.looks import DASHES
from ltpl.report.pictures import Picture, Sheet, picture
from ltpl.report.training import of_round

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

MOST_ROUNDS = 4


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
        f"on differently ordered data. {band_words(spreads)}{statistics([first])}{of}"
    )
    return picture(
        "paths",
        "Error between two trainings of one ticket",
        caption,
        lambda figure, sheet: _draw(figure, sheet, first, kinds, shown),
        wide=(7.4, 3.9),
        narrow=(3.9, 1.2 + 2.6 * len(kinds)),
    )


def _draw(
    figure: Figure, sheet: Sheet, first: Between, kinds: Sequence[str], shown: Sequence[int]
) -> None:
    drawn: dict[str, Artist] = {}
    for position, kind in enumerate(kinds):
        shape = (len(kinds), 1) if sheet.narrow else (1, len(kinds))
        axes = figure.add_subplot(*shape, position + 1)
        for number in shown:
            label, colour = of_round(first.line, number, shown)
            for column, dashes in ((RAW + kind, DASHES[2]), (kind, "-")):
                if along := first.along(column, number):
                    drawn[label] = mean_and_band(
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
    legend(figure, [*drawn.items(), *entries([first])], sheet.width)
