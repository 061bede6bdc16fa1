"""Figures against density: the score, and how early training could have stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpl.report.axes import band_words, cut_words, density_axis, legend, mean_and_band, window
from ltpl.report.looks import INK, Look, look
from ltpl.report.pictures import Picture, Sheet, picture
from ltpl.report.spread import Spread, per_cent
from ltpl.report.tables import Row, is_dense

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

_MOST_NAMED = 4  # points outside the axes that a caption names


@dataclass(frozen=True)
class Series:
    """One line of a figure: a run's main line or a branch.

    Args:
        label: How the legend calls it.
        look: Colour, marker and dashes.
        points: Density and measure of each level, from dense to sparse.
        dense: Measure of the run's dense network, in its main line.
    """

    label: str
    look: Look
    points: list[tuple[float, Spread]]
    dense: Spread | None


def accuracy(table: Sequence[Row]) -> Picture | None:
    """Return the score against density; None if nothing was scored.

    Args:
        table: Rows of the report.
    """
    lines = _series(table, lambda row: row.score)
    if not lines:
        return None
    measure = table[0].measure
    points = [spread for line in lines for _, spread in line.points]
    first = next((line.dense for line in lines if line.dense), points[0])
    limits = window(points, first.mean)
    name = measure.name()
    caption = (
        f"{name.capitalize()} of each level, with the weights left on a logarithmic scale and the "
        f"dense network at the left. {band_words(points)}{_dashed(lines)}"
    )
    if measure.stage == "validation":
        caption += " Nothing was tested, so this is the validation score."
    caption += _outside(lines, limits, measure.decimals, measure.unit) + cut_words(points, limits)
    return picture(
        "accuracy",
        f"{name.capitalize()} against density",
        caption,
        lambda figure, sheet: _draw(
            figure, sheet, lines, name + (" (%)" if measure.percent else ""), limits
        ),
        narrow=_phone(lines),
    )


def early_stop(table: Sequence[Row]) -> Picture | None:
    """Return the step of the lowest validation loss against density; None if none was recorded.

    Args:
        table: Rows of the report.
    """
    lines = _series(table, lambda row: row.early_stop_step)
    if not lines:
        return None
    points = [spread for line in lines for _, spread in line.points]
    top = max(spread.high for spread in points)
    return picture(
        "early_stop",
        "Early-stop step against density",
        "The step at which the validation loss was lowest: the lower, the faster the network "
        f"learned. {band_words(points)}{_dashed(lines)}",
        lambda figure, sheet: _draw(
            figure, sheet, lines, "early-stop step", (0.0, 1.06 * top or 1.0)
        ),
        narrow=_phone(lines),
    )


def _phone(lines: Sequence[Series]) -> tuple[float, float]:
    """Return the sheet for phones, where a legend of many lines is tall."""
    return 3.9, 3.9 + 0.2 * max(0, len(lines) - 3)


def _series(table: Sequence[Row], value: Callable[[Row], Spread | None]) -> list[Series]:
    """Return the lines, main lines first."""
    several = len({row.run for row in table}) > 1
    keys = sorted(dict.fromkeys((r.run, r.branch) for r in table), key=lambda key: bool(key[1]))
    found = []
    for number, key in enumerate(keys):
        rows = [row for row in table if (row.run, row.branch) == key and row.density > 0]
        points = [(row.density, spread) for row in rows if (spread := value(row))]
        if not points:
            continue
        label = rows[0].line
        if several:
            label = rows[0].run if rows[0].branch is None else f"{rows[0].run}: {label}"
        dense = next((value(row) for row in rows if is_dense(row)), None)
        points.sort(key=lambda point: -point[0])
        found.append(Series(label, look(number), points, dense))
    return found


def _draw(
    figure: Figure,
    sheet: Sheet,
    lines: Sequence[Series],
    label: str,
    limits: tuple[float, float],
) -> None:
    axes = figure.add_subplot()
    entries: list[tuple[str, Artist]] = []
    for order, line in reversed(list(enumerate(lines))):  # the main line lies on top
        densities = [density for density, _ in line.points]
        drawn = mean_and_band(
            axes,
            densities,
            [spread for _, spread in line.points],
            alpha=0.17,
            color=line.look.colour,
            marker=line.look.marker,
            linestyle=line.look.dashes,
            zorder=4 - order / len(lines),
        )
        entries.insert(0, (line.label, drawn))
    dense = [(line.look.colour, line.dense.mean) for line in lines if line.dense]
    for colour, mean in dense:
        colour = INK if len(dense) == 1 else colour
        drawn = axes.axhline(mean, color=colour, linestyle=(0, (4, 3)), linewidth=1, zorder=1.5)
        if len(dense) == 1:
            entries.append(("dense", drawn))
    density_axis(axes, [d for line in lines for d, _ in line.points], sheet.width)
    axes.set_ylim(*limits)
    if limits[1] >= 1000:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylabel(label)
    legend(figure, entries, sheet.width)


def _dashed(lines: Sequence[Series]) -> str:
    dense = sum(line.dense is not None for line in lines)
    if not dense:
        return ""
    return " Dashed: the dense network" + (" of the run in that colour." if dense > 1 else ".")


def _outside(lines: Sequence[Series], limits: tuple[float, float], decimals: int, unit: str) -> str:
    far = [
        f"{line.label} at {per_cent(density)} % ({spread.mean:.{decimals}f}{unit})"
        for line in lines
        for density, spread in line.points
        if not limits[0] <= spread.mean <= limits[1]
    ]
    if not far:
        return ""
    more = f" and {len(far) - _MOST_NAMED} more" if len(far) > _MOST_NAMED else ""
    return f" Outside the axes: {', '.join(far[:_MOST_NAMED])}{more}."
