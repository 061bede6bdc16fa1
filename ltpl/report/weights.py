"""The figure of weights: how those that are left were distributed before training, and after it.

As in appendix F of Frankle and Carbin (2019), The lottery ticket hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ltpl.masks.mask import Mask
from ltpl.report.axes import legend
from ltpl.report.curves import spread_over
from ltpl.report.layers import short
from ltpl.report.lines import Run
from ltpl.report.looks import look
from ltpl.report.pictures import Picture, Sheet, picture
from ltpl.report.spread import per_cent
from ltpl.report.training import chosen
from ltpl.tickets.result import Result, round_folder
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.ticket import FINAL, MASK

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

START = "snapshot.safetensors"  # of round 0: the rewinding point
MOST_ROUNDS = 4
MOST_LAYERS = 6
MOST_WEIGHTS = 500_000  # of a layer; of larger ones every k-th weight says as much
BINS = 50
SHOWN = 0.995  # of the weights; a few outliers would squash the rest

Values = dict[str, "np.ndarray[Any, np.dtype[np.float32]]"]  # layer -> weights that are left
T = TypeVar("T")


@dataclass(frozen=True)
class Level:
    """The weights of a round that are left.

    Args:
        density: Share of the prunable weights.
        initial: Their values at the rewinding point.
        final: Their values when training ended.
    """

    density: float
    initial: Values
    final: Values


@dataclass(frozen=True)
class Kept:
    """The weights of one seed.

    Args:
        seed: The seed.
        step: The rewinding point, as written: `2ep`.
        layers: How many layers are pruned.
        thinned: Whether not every weight of every layer is counted.
        levels: By density, from dense to sparse.
    """

    seed: int
    step: str
    layers: int
    thinned: bool
    levels: list[Level]

    @property
    def names(self) -> list[str]:
        """The layers that are drawn."""
        return list(dict.fromkeys(name for level in self.levels for name in level.initial))


def weights(runs: Sequence[Run], rounds: Sequence[int] | None = None) -> Picture | None:
    """Return the distributions of weights by layer; None where no round has kept its weights.

    Args:
        runs: The runs; the first that has kept weights is drawn, with its first such seed.
        rounds: Which rounds; dense, the last and some between if not given.
    """
    choice = chosen(runs, rounds) if rounds is not None else {}
    found = ((run, kept) for run in runs if (kept := kept_weights(run, choice.get(run.name))))
    run, kept = next(found, (None, None))
    if run is None or kept is None:
        return None
    of = f"seed {kept.seed}" + (f" of {run.name}" if len(runs) > 1 else "")
    at = (
        "at initialisation"
        if kept.step in ("0ep", "0it")
        else f"at the rewinding point, {kept.step},"
    )
    caption = (
        f"The weights that are left, one seed ({of}), by layer: their values {at} and when "
        "training ended. 100 % is the whole network; the area under each line is 1."
    )
    if len(kept.names) < kept.layers:
        caption += f" Of {kept.layers} layers {len(kept.names)} are drawn, evenly chosen."
    if kept.thinned:
        caption += f" Of layers with more than {MOST_WEIGHTS:,} weights every k-th is counted."
    caption += f" The axes show at least {per_cent(SHOWN)} % of the weights of each line."
    count = len(kept.levels)
    return picture(
        "weights",
        "Weights before and after training",
        caption,
        lambda figure, sheet: _draw(figure, sheet, kept),
        wide=(7.4, 4.2),
        narrow=(3.9, 0.9 + 1.6 * count),
    )


def kept_weights(run: Run, rounds: Sequence[int] | None) -> Kept | None:
    """Return the weights of the first seed that has kept them; None if none has.

    Args:
        run: The run; its main line is read.
        rounds: Which rounds; a few of those that are there if not given.
    """
    for seed in sorted({result.seed for result in run.main.results}):
        start = _loaded(Snapshot.load, round_folder(run.folder, seed, 0) / START)
        results = [r for r in run.main.results if r.seed == seed and _has_files(run, r)]
        if rounds is not None:
            results = [r for r in results if r.round in rounds]
        if start is None or not results:
            continue
        few = {results[k].round for k in spread_over(range(len(results)), MOST_ROUNDS)}
        read = [_level(run, r, start) for r in results if r.round in few]
        if levels := [level for level in read if level and level.initial]:
            sizes = {name: total for name, _, total in results[0].layers}
            large = any(_stride(sizes.get(name, 0)) > 1 for name in levels[0].initial)
            return Kept(seed, start.step, len(sizes), large, levels)
    return None


def _has_files(run: Run, result: Result) -> bool:
    folder = round_folder(run.folder, result.seed, result.round)
    return (folder / FINAL).is_file() and (folder / MASK).is_file()


def _loaded(load: Callable[[Path], T], path: Path) -> T | None:
    """Return what a file holds; None if it is missing or damaged: a figure is no check."""
    try:
        return load(path)
    except (OSError, ValueError):
        return None


def _level(run: Run, result: Result, start: Snapshot) -> Level | None:
    folder = round_folder(run.folder, result.seed, result.round)
    mask, final = _loaded(Mask.load, folder / MASK), _loaded(Snapshot.load, folder / FINAL)
    if mask is None or final is None:
        return None
    names = [
        name
        for name, keep in mask.items()
        if all(name in w and w[name].shape == keep.shape for w in (start.weights, final.weights))
    ]
    shown = spread_over(range(len(names)), MOST_LAYERS)
    initial, trained = Values(), Values()
    for name in (names[k] for k in shown):
        initial[name] = _values(start, name, mask)
        trained[name] = _values(final, name, mask)
    return Level(result.density, initial, trained)


def _values(weights: Snapshot, name: str, mask: Mask) -> Any:
    stride = _stride(mask[name].numel())
    kept = mask[name].flatten()[::stride]
    found = weights.weights[name].flatten()[::stride][kept].float().numpy()
    return found[np.isfinite(found)]


def _stride(size: int) -> int:
    return -(-size // MOST_WEIGHTS)


def reach(levels: Sequence[Values]) -> float:
    """Return how far from zero the axis goes: `SHOWN` of each layer's weights lie within."""
    sizes = [np.abs(values) for found in levels for values in found.values() if len(values)]
    ends = [float(np.quantile(size, SHOWN, method="higher")) for size in sizes]
    return max(ends, default=0.0) or 1.0


def histogram(values: Any, reach: float) -> tuple[Any, Any]:
    """Return heights and edges of a histogram; its area is the share of weights that it shows."""
    edges = np.linspace(-reach, reach, BINS + 1)
    counts, _ = np.histogram(values, edges)
    return counts / (max(1, len(values)) * (edges[1] - edges[0])), edges


def _draw(figure: Figure, sheet: Sheet, kept: Kept) -> None:
    from matplotlib.ticker import MaxNLocator

    moments = {
        "initial weight": [level.initial for level in kept.levels],
        "final weight": [level.final for level in kept.levels],
    }
    count, names = len(kept.levels), kept.names
    labels = short(names)
    artists: dict[str, Artist] = {}
    for row, (moment, levels) in enumerate(moments.items()):
        width = reach(levels)
        for column, found in enumerate(levels):
            place = (
                (count, 2, 2 * column + row) if sheet.narrow else (2, count, row * count + column)
            )
            axes = figure.add_subplot(*place[:2], place[2] + 1)
            top = 0.0
            for number, name in enumerate(names):
                style = look(number)
                if len(found.get(name, ())):
                    heights, edges = histogram(found[name], width)
                    top = max(top, *heights)
                    artists[labels[number]] = axes.stairs(
                        heights,
                        edges,
                        color=style.colour,
                        linestyle=style.dashes,
                        linewidth=1.2,
                    )
            axes.set_xlim(-width, width)
            axes.set_ylim(0, 1.06 * top or 1.0)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
            axes.tick_params(axis="x", labelsize=8)
            share = f"{per_cent(kept.levels[column].density)} %"
            if sheet.narrow or row == 0:
                axes.set_title(share, fontsize=9.5)
            if sheet.narrow and column == count - 1:
                axes.set_xlabel(moment)
            if not sheet.narrow and column == 0:
                axes.set_ylabel(moment)
    legend(figure, [(label, artists[label]) for label in labels if label in artists], sheet.width)
