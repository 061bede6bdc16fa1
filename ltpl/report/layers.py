"""The figure of layers: how dense each pruned parameter is, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltpl.report.axes import legend, sample
from ltpl.report.lines import Line, Run
from ltpl.report.looks import DASHES, Look, gradient, look
from ltpl.report.pictures import Picture, Sheet, picture
from ltpl.report.ticks import share_ticks
from ltpl.tickets.result import Result

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

MOST_NAMED = 7  # more layers are coloured by depth, and the legend names only the extremes

Ladders = dict[str, dict[int, float]]  # layer -> round -> density, mean over seeds


def layers(runs: Sequence[Run]) -> Picture | None:
    """Return the density of each layer against the round; None if no layer was recorded.

    Args:
        runs: The runs; their main lines are drawn, or where that is dense, the longest branch.
    """
    lines = {run.name: [run.main, *_instead(run)] for run in runs}
    ladders = {
        name: densities([result for line in drawn for result in line.results])
        for name, drawn in lines.items()
    }
    names = list(dict.fromkeys(name for found in ladders.values() for name in found))
    if not names:
        return None
    labels = dict(zip(names, short(names), strict=True))
    many = len(names) > MOST_NAMED
    named = _extremes(ladders, names) if many else names
    looks = {name: _look(number, len(names)) for number, name in enumerate(names)}

    def draw(figure: Figure, sheet: Sheet) -> None:
        _draw(figure, sheet, ladders, looks, {name: labels[name] for name in named})

    caption = "Share of each layer's weights that is left after each pruning, mean over seeds."
    if many:
        caption += (
            f" The {len(names)} layers are coloured from the first to the last; the legend names "
            "these two, and the densest and the sparsest of the last round."
        )
    if instead := [line.title for drawn in lines.values() for line in drawn[1:]]:
        caption += f" Drawn: {', '.join(instead)}."
    empty = [n for n in names if any(0 in found.get(n, {}).values() for found in ladders.values())]
    if empty:
        caption += f" Pruned away altogether: {', '.join(labels[name] for name in empty)}."
    return picture("layers", "Density by layer", caption, draw)


def _instead(run: Run) -> list[Line]:
    """Return the longest branch of a run whose main line is dense alone."""
    if len(run.main.rounds) > 1 or not run.branches:
        return []
    return [max(run.branches, key=lambda branch: len(branch.rounds))]


def densities(results: Sequence[Result]) -> Ladders:
    """Return the density of each layer by round, mean over the seeds that finished it."""
    found: dict[str, dict[int, list[float]]] = {}
    for result in results:
        for name, kept, total in result.layers:
            share = kept / total if total else 1.0
            found.setdefault(name, {}).setdefault(result.round, []).append(share)
    return {
        name: {number: sum(shares) / len(shares) for number, shares in sorted(levels.items())}
        for name, levels in found.items()
    }


def short(names: Sequence[str]) -> list[str]:
    """Return the names without the modules in front, and the `.weight` behind, that all share.

    Example:
        >>> short(["network.fc1.weight", "network.fc2.weight"])
        ['fc1', 'fc2']
    """
    paths = [name.split(".") for name in names]
    while all(len(p) > 1 and p[-1] == "weight" for p in paths):
        paths = [p[:-1] for p in paths]
    shared = 0
    while len({tuple(p[: shared + 1]) for p in paths}) == 1 and shared < min(map(len, paths)) - 1:
        shared += 1
    return [".".join(p[shared:]) for p in paths]


def _extremes(ladders: dict[str, Ladders], names: Sequence[str]) -> list[str]:
    """Return the first and the last name, and the densest and the sparsest in the last round."""
    ends = {
        name: levels[max(levels)] for found in ladders.values() for name, levels in found.items()
    }
    wanted = {
        names[0],
        names[-1],
        max(names, key=ends.__getitem__),
        min(names, key=ends.__getitem__),
    }
    return [name for name in names if name in wanted]


def _look(number: int, count: int) -> Look:
    if count <= MOST_NAMED:
        return look(number)
    return Look(gradient(number, count), "", "-")


def _draw(
    figure: Figure,
    sheet: Sheet,
    ladders: dict[str, Ladders],
    looks: dict[str, Look],
    labels: dict[str, str],
) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    axes = figure.add_subplot()
    entries: dict[str, Artist] = {}
    several = len(ladders) > 1
    positive = [1.0]
    for position, found in enumerate(ladders.values()):
        for name, levels in found.items():
            style = looks[name]
            # Layers pruned alike lie on one another: what is drawn first is broader.
            under = 0.0
            if len(looks) <= MOST_NAMED and not several:
                under = 1 - (list(looks).index(name) + 1) / len(looks)
            (drawn,) = axes.plot(
                list(levels),
                [share or float("nan") for share in levels.values()],  # no logarithm of nothing
                color=style.colour,
                marker=style.marker,
                linestyle=DASHES[position % len(DASHES)] if several else style.dashes,
                linewidth=1.3 + 2.2 * under,
                markersize=4.0 + 4.0 * under,
            )
            positive += [share for share in levels.values() if share]
            if name in labels:
                entries.setdefault(labels[name], drawn)
    lowest = min(0.5, *positive)
    axes.set_yscale("log")
    axes.set_ylim(lowest * 0.9, 1.1)
    axes.yaxis.set_major_locator(FixedLocator(share_ticks(lowest * 0.9)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    axes.set_ylabel("weights left (%)")
    axes.xaxis.set_major_locator(MaxNLocator(8 if sheet.narrow else 12, integer=True))
    axes.set_xlabel("round")
    runs = [(name, sample(DASHES[k % len(DASHES)])) for k, name in enumerate(ladders)]
    legend(figure, [*entries.items(), *(runs if several else [])], sheet.width)
