"""The figure of trade-offs: the score against compression, and against what the search cost.

As in Renda, Frankle and Carbin (2020), Comparing rewinding and fine-tuning: iterative and one-shot
pruning, by retraining policy. Search cost is what is trained after the dense network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltpl.report.axes import POINTS, band_words, cut_words, legend, mean_and_band, sample, window
from ltpl.report.beside import Beside, write_beside
from ltpl.report.cost import Traded, traded
from ltpl.report.lines import Run
from ltpl.report.looks import DASHES, INK, PAPER, look
from ltpl.report.pictures import Picture, Sheet, picture
from ltpl.report.score import Score
from ltpl.report.spread import per_cent
from ltpl.report.tables import Row

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE_COSTS = 6.0  # costs that differ by more have a logarithmic axis


def tradeoffs(runs: Sequence[Run], table: Sequence[Row]) -> Picture | None:
    """Return the trade-offs; None if there is one way only and its cost is not known.

    Args:
        runs: The runs: main lines, and branches that retrain.
        table: Rows of the report, for the measure.
    """
    lines = traded(runs, table[0].measure)
    known = [line for line in lines if line.costs]
    if not known and len(lines) < 2:
        return None
    measure = table[0].measure
    spreads = [point.score for line in lines for point in line.points]
    first = next((line.dense for line in lines if line.dense), spreads[0])
    limits = window(spreads, first.mean)
    label = measure.name() + (" (%)" if measure.percent else "")

    def draw(figure: Figure, sheet: Sheet) -> None:
        _draw(figure, sheet, lines, label, limits)

    panels = 2 if known else 1
    return picture(
        "tradeoffs",
        f"{measure.name().capitalize()} against compression" + (" and search cost" * bool(known)),
        _caption(lines, limits, measure),
        draw,
        wide=(7.4, 3.9),
        narrow=(3.9, 1.0 + 0.2 * len(lines) + 2.6 * panels),
    )


def _caption(lines: Sequence[Traded], limits: tuple[float, float], measure: Score) -> str:
    points = [point for line in lines for point in line.points]
    caption = "Compression: prunable weights of the dense network for each one that is left."
    if any(line.costs for line in lines):
        caption += (
            " Search cost: epochs trained after the dense network to have a ticket: over all "
            "rounds up to it where pruning is iterative, of the one training where it is one-shot. "
            "Training the dense network is not counted. Numbers at points: weights left, %."
        )
    caption += f" {band_words([point.score for point in points])}"
    if any(line.dense for line in lines):
        caption += " Dashed: the dense network."
    if unknown := [line.label for line in lines if not line.costs]:
        caption += f" Of unknown search cost, for epochs were not counted: {', '.join(unknown)}."
    far = sum(not limits[0] <= point.score.mean <= limits[1] for point in points)
    if far:
        side = "above" if measure.lower_is_better else "below"
        caption += f" {far} of the points lie{'s' * (far == 1)} {side} the axes."
    return caption + cut_words([point.score for point in points], limits)


def _draw(
    figure: Figure,
    sheet: Sheet,
    lines: Sequence[Traded],
    label: str,
    limits: tuple[float, float],
) -> None:
    panels = 1 + any(line.costs for line in lines)
    several = len({line.one_shot for line in lines}) > 1
    entries: dict[str, Artist] = {}
    for panel in range(panels):
        shape = (panels, 1) if sheet.narrow else (1, panels)
        axes = figure.add_subplot(*shape, panel + 1)
        numbers: list[Beside] = []
        drawn: list[list[tuple[float, float]]] = []
        for order, line in reversed(list(enumerate(lines))):
            if panel and not line.costs:
                continue
            xs = [(p.cost or 0.0) if panel else 1 / p.density for p in line.points]
            style = look(order)
            entries[line.label] = mean_and_band(
                axes,
                xs,
                [point.score for point in line.points],
                color=style.colour,
                marker=style.marker,
                linestyle=DASHES[1 if line.one_shot and several else 0],
                markerfacecolor=PAPER if line.one_shot and several else style.colour,
                zorder=4 - order / len(lines),
            )
            drawn.append([(x, p.score.mean) for x, p in zip(xs, line.points, strict=True)])
            ends = [0, -1, *range(len(xs))]  # the first and the last matter most
            numbers += [
                Beside(xs[k], p.score.mean, per_cent(p.density), style.colour)
                for k, p in ((k, line.points[k]) for k in ends)
            ]
        for line in lines:
            if line.dense:
                axes.axhline(
                    line.dense.mean, color=INK, linestyle=(0, (4, 3)), linewidth=1, zorder=1
                )
        axes.set_ylim(*limits)
        (_cost_axis if panel else _compression_axis)(axes, [number.x for number in numbers])
        if not panel or sheet.narrow:
            axes.set_ylabel(label)
        if panel:
            dense = [line.dense.mean for line in lines if line.dense]
            drawn += [[(x, mean) for x in axes.get_xlim()] for mean in dense]
            write_beside(axes, numbers, drawn, _size(sheet))
    shown = [(line.label, entries[line.label]) for line in lines]
    if several:
        shown += [("iterative", sample(DASHES[0])), ("one-shot", sample(DASHES[1]))]
    legend(figure, shown, sheet.width)


def _size(sheet: Sheet) -> tuple[float, float]:
    """Return width and height of one of the two axes in points, about."""
    if sheet.narrow:
        return POINTS * (sheet.width - 0.9), POINTS * (sheet.height / 2 - 1.4)
    return POINTS * (sheet.width / 2 - 0.9), POINTS * (sheet.height - 1.2)


def _compression_axis(axes: Axes, ratios: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    powers = range(math.floor(math.log2(min(ratios))), math.ceil(math.log2(max(ratios))) + 1)
    stride = -(-len(powers) // 8)
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(ratios) / 1.1, max(ratios) * 1.1)
    axes.xaxis.set_major_locator(FixedLocator([2.0**power for power in powers[::stride]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}x")
    axes.set_xlabel("compression")


def _cost_axis(axes: Axes, costs: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    if max(costs) > _WIDE_COSTS * min(costs) > 0:
        steps = [s * 10.0**k for k in range(-3, 9) for s in (1, 2, 5)]
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 1.2, max(costs) * 1.4)
        axes.xaxis.set_major_locator(FixedLocator(steps))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, max(costs) * 1.12 or 1.0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axes.set_xlabel("search cost (epochs)")
