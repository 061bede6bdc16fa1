"""Figures of early-bird detection: how far masks are from each other, epoch after epoch.

As in figure 2 of You et al. (2020), Drawing early-bird tickets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ltpl.masks.stability import random_distance
from ltpl.report.axes import band_words, legend, mean_and_band, sample
from ltpl.report.curves import spread_over
from ltpl.report.lines import Run
from ltpl.report.looks import COLOURS, DASHES, INK, PAPER, look
from ltpl.report.pictures import Picture, Sheet, picture
from ltpl.report.spread import Spread
from ltpl.report.watched import Watched, watched

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

MOST_MATRICES = 3
_THRESHOLD = (0, (4, 3))


def distances(runs: Sequence[Run]) -> Picture | None:
    """Return distances between masks against the epoch; None if nothing was watched.

    Args:
        runs: The runs; the dense training of their main lines is read.
    """
    every = watched(runs)
    lines: dict[str, list[Watched]] = {}
    for each in every:
        lines.setdefault(each.label, []).append(each)
    if not lines:
        return None
    spreads = [
        spread for group in lines.values() for spread in _over_seeds(group, "to_previous").values()
    ]
    found = [
        f"{label}: {', '.join(str(each.detector.found or 'none') for each in group)}"
        for label, group in lines.items()
    ]
    caption = (
        "Share of bits in which the mask drawn after an epoch differs from the one an epoch "
        "before, and the largest such distance that the rule looks at: the ticket is found when "
        f"it falls to the threshold. Dense training. {band_words(spreads)} Found after epoch, seed "
        f"by seed: {'; '.join(found)}."
    )
    return picture(
        "early_bird",
        "Early-bird tickets: does the mask still change?",
        caption,
        lambda figure, sheet: _draw(figure, sheet, lines),
        narrow=(3.9, 4.6),
    )


def pairs(runs: Sequence[Run]) -> Picture | None:
    """Return the distances between the masks of all epochs as images; None if there are none.

    Args:
        runs: The runs; the first seed of the first that was watched is drawn.
    """
    every = watched(runs)
    first = [each for each in every if each.seed == every[0].seed]
    shown = [first[k] for k in spread_over(range(len(first)), MOST_MATRICES)]
    if not shown:
        return None
    marked = any(each.detector.found in each.epochs for each in shown)
    caption = (
        f"Distance between the masks of every two epochs, seed {shown[0].seed}: yellow is near, "
        "violet as far as random masks are. Colours go with the square root."
    )
    if marked:
        caption += " The square marks the epoch of the ticket that was found."
    if len(shown) < len(first):
        caption += f" {len(shown)} of {len(first)} are drawn."
    return picture(
        "early_bird_pairs",
        "Early-bird tickets: distances between all epochs",
        caption,
        lambda figure, sheet: _draw_pairs(figure, sheet, shown),
        wide=(7.4, 2.7 if len(shown) > 1 else 4.2),
        narrow=(3.9, 0.4 + 3.1 * len(shown)),
    )


def _over_seeds(group: Sequence[Watched], what: str) -> dict[int, Spread]:
    measured = [each.measured(what) for each in group]
    epochs = sorted({epoch for values in measured for epoch in values})
    return {epoch: Spread(tuple(v[epoch] for v in measured if epoch in v)) for epoch in epochs}


def _draw(figure: Figure, sheet: Sheet, lines: dict[str, list[Watched]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    entries: list[tuple[str, Artist]] = []
    limits = sorted({each.detector.limit for group in lines.values() for each in group})
    for number, (label, group) in enumerate(lines.items()):
        style = look(number)
        steps, window = _over_seeds(group, "to_previous"), _over_seeds(group, "to_window")
        drawn = mean_and_band(axes, list(steps), list(steps.values()), color=style.colour)
        entries.append((label, drawn))
        means = [spread.mean for spread in window.values()]
        axes.plot(list(window), means, color=style.colour, linestyle=DASHES[2])
        for each in group:
            values = each.measured("to_window")
            if each.detector.found in values:
                axes.plot(
                    each.detector.found,
                    values[each.detector.found],
                    color=style.colour,
                    marker=style.marker,
                    markersize=8,
                    markeredgecolor=PAPER,
                    zorder=5,
                )
        if len(limits) > 1:
            axes.axhline(group[0].detector.limit, color=style.colour, linestyle=_THRESHOLD, lw=1)
    if len(limits) == 1:
        axes.axhline(limits[0], color=INK, linestyle=_THRESHOLD, linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("distance between masks")
    entries += [
        ("to the epoch before", sample("-")),
        ("largest in the window", sample(DASHES[2])),
        ("threshold", sample(_THRESHOLD)),
    ]
    if any(each.detector.found is not None for group in lines.values() for each in group):
        mark = Line2D([], [], color=INK, marker="o", markersize=8, linestyle="none")
        entries.append(("ticket found", mark))
    legend(figure, entries, sheet.width)


def _draw_pairs(figure: Figure, sheet: Sheet, shown: Sequence[Watched]) -> None:
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    full = max(random_distance(each.amount) for each in shown)
    panels = []
    for number, each in enumerate(shown):
        shape = (len(shown), 1) if sheet.narrow else (1, len(shown))
        axes = figure.add_subplot(*shape, number + 1)
        panels.append(axes)
        image = axes.imshow(
            each.detector.history.distances.numpy(),
            cmap="viridis_r",
            norm=PowerNorm(0.5, 0, full),
            interpolation="none",
        )
        axes.grid(visible=False)
        axes.set_title(each.label)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True))
            axis.set_major_formatter(_numbered(each.epochs))
        if sheet.narrow or number == 0:
            axes.set_ylabel("epoch")
        axes.set_xlabel("epoch")
        if each.detector.found is not None:
            corner = each.epochs.index(each.detector.found) - 0.5
            square = Rectangle((corner, corner), 1, 1, fill=False, edgecolor=COLOURS[1], lw=1.8)
            axes.add_patch(square)
    where: Any = {"location": "bottom", "aspect": 30} if sheet.narrow else {"shrink": 0.62}
    bar = figure.colorbar(image, ax=panels, label="distance", **where)
    if bar.solids:
        bar.solids.set_rasterized(True)  # one image, not 256 paths
    bar.outline.set_visible(False)


def _numbered(epochs: Sequence[int]) -> Callable[[float, float], str]:
    """Return what writes the epoch of a row: after a resumption some may be missing."""
    return lambda row, _: str(epochs[int(row)]) if row in range(len(epochs)) else ""
