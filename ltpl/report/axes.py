"""Axes of figures: how they run, which limits show what matters, where the legend goes."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ltpl.report.looks import FONT, INK
from ltpl.report.spread import Spread, per_cent
from ltpl.report.ticks import density_ticks, with_room

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 72  # to the inch
_BANDS = 2.5  # times as far as means, and an end of a band is shown: if one of two seeds is far off
_USUAL = 4.0  # times as far as half of all spreads keep within, and it is shown too
_LONGEST = 36  # characters of a legend entry


def window(spreads: Sequence[Spread], centre: float, reach: float = 12.0) -> tuple[float, float]:
    """Return axis limits that show what matters: the neighbourhood of `centre`.

    Every mean is shown unless a few lie so far off that they would squash the rest: more than one
    and a half times as far as `reach` goes. Then what lies beyond `reach` is left outside. Bands of
    means that are shown are shown whole, unless they alone would squash the rest.

    Args:
        spreads: What is drawn: means, and bands from the lowest to the highest.
        centre: What readers compare with.
        reach: How far to go from the centre, in what half of all spreads keep within.
    """
    finite = [s for s in spreads if math.isfinite(s.mean)]
    if not math.isfinite(centre):
        centre = statistics.median(s.mean for s in finite) if finite else 0.0
    extents = [max(abs(s.low - centre), abs(s.high - centre)) for s in finite]
    unit = statistics.median([extent for extent in extents if extent] or [1e-12])
    farthest = max((abs(s.mean - centre) for s in finite), default=0.0)
    if farthest > 1.5 * reach * unit:
        farthest = reach * unit
    near = [s for s in finite if abs(s.mean - centre) <= farthest]
    limit = max(_BANDS * farthest, _USUAL * unit)
    ends = (end for s in near for end in (s.low, s.high) if abs(end - centre) <= limit)
    shown = [centre, *(s.mean for s in near), *ends]
    low, high = min(shown), max(shown)
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return low - margin, high + margin


def cut_words(spreads: Iterable[Spread], limits: tuple[float, float]) -> str:
    """Return what a caption says where a band goes beyond the axes and its mean does not.

    Args:
        spreads: What is drawn.
        limits: Of the axis.
    """
    low, high = limits
    cut = any((s.low < low or high < s.high) and low <= s.mean <= high for s in spreads)
    return " Bands that go beyond the axes are cut." if cut else ""


def density_axis(axes: Axes, densities: Iterable[float], inches: float) -> None:
    """Make x the density in per cent, logarithmic, dense at the left as in the papers.

    Args:
        axes: The axes.
        densities: Every density that is drawn.
        inches: Width of the figure.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    levels = [d for d in densities if d > 0]
    ticks = density_ticks(levels, POINTS * (inches - 1.0))  # 1.0: the y axis and its labels
    pad = (max(levels) / min(levels)) ** 0.035 if max(levels) > min(levels) else 1.1
    axes.set_xscale("log")
    axes.set_xlim(max(levels) * pad, min(levels) / pad)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: per_cent(value))
    axes.set_xlabel("weights left (%)")


def step_axis(axes: Axes, steps: Iterable[float], inches: float) -> None:
    """Make x the step, logarithmic but for the piece from 0 to the first step.

    Args:
        axes: The axes.
        steps: Every step that is drawn; at least one is above 0.
        inches: Width of the figure.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    ticks = sorted({0, *steps})
    decades = math.log10(ticks[-1] / ticks[1])
    axes.set_xscale("symlog", linthresh=ticks[1], linscale=max(0.2, decades / (len(ticks) - 1)))
    scale = axes.xaxis.get_transform()
    first, last = scale.transform([0, ticks[-1]])
    margin = 0.035 * (last - first)
    axes.set_xlim(*scale.inverted().transform([first - margin, last + margin]))

    def place(step: float) -> float:
        (at,) = scale.transform([step])
        return float(POINTS * (inches - 1.0) * (at - first) / (last - first))

    kept = with_room([0, ticks[-1], *ticks[1:-1]], "{:,}".format, place)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("rewinding step")


def mean_and_band(
    axes: Axes, xs: Sequence[float], spreads: Sequence[Spread], alpha: float = 0.15, **line: Any
) -> Artist:
    """Draw the mean over seeds as a line, and a band from the lowest seed to the highest.

    Args:
        axes: Where to draw.
        xs: Where each spread stands.
        spreads: Over the seeds.
        alpha: How dense the band is.
        **line: How the line looks; the band has its colour.

    Returns:
        The line.
    """
    low, high = [s.low for s in spreads], [s.high for s in spreads]
    axes.fill_between(xs, low, high, color=line["color"], alpha=alpha, linewidth=0)
    (drawn,) = axes.plot(xs, [s.mean for s in spreads], **line)
    return drawn


def band_words(spreads: Sequence[Spread]) -> str:
    """Return what a caption says of lines and bands: over how many seeds they go."""
    counts = {spread.n for spread in spreads}
    if counts == {1}:
        return "One seed, so there is no band."
    shown = str(*counts) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"Line: mean over n = {shown} seeds; band: lowest to highest seed."


def legend(figure: Figure, entries: Sequence[tuple[str, Artist]], inches: float) -> None:
    """Put the legend above the axes, in as many columns as have room.

    Args:
        figure: The figure.
        entries: What each line is called.
        inches: Width of the figure.
    """
    if not entries:
        return
    labels = [entry_label(name) for name, _ in entries]
    figure.legend(
        [artist for _, artist in entries],
        labels,
        loc="outside upper left",
        ncols=legend_columns(labels, POINTS * inches),
        columnspacing=1.4,
    )


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Return in how many columns a legend has room; each is as wide as its longest label.

    Args:
        labels: The entries, which are filled in column by column.
        width: Room in points.

    Example:
        >>> legend_columns(["ticket", "a name that is rather long", "dense"], 360)
        2
    """
    for count in range(len(labels), 1, -1):
        whole, more = divmod(len(labels), count)  # the first columns hold what is left over
        starts = [k * whole + min(k, more) for k in range(count + 1)]
        longest = [max(map(len, labels[a:b])) for a, b in itertools.pairwise(starts)]
        if sum(0.62 * FONT * long + 5.5 * FONT for long in longest) <= width:  # 5.5: the sample
            return count
    return 1


def sample(dashes: Any) -> Artist:
    """Return a line that only the legend shows, for what dashes mean whatever the colour."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=INK, linestyle=dashes)


def entry_label(name: str) -> str:
    """Return a name as it stands in a legend: on one line, not too long."""
    name = " ".join(name.split())
    if len(name) > _LONGEST:
        name = name[: _LONGEST - 1] + "…"
    return name
