"""The figure of training: validation accuracy and loss against the step, for chosen rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltpl.report.axes import cut_words, legend, mean_and_band, sample, window
from ltpl.report.curves import Curve, curve, spread_over
from ltpl.report.lines import Line, Run
from ltpl.report.looks import DASHES, INK, look
from ltpl.report.pictures import Picture, Sheet, picture
from ltpl.report.spread import Spread, per_cent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REACH = 8.0  # the steep beginning is the same in every run; what differs comes after it
KINDS = {"acc": "validation accuracy", "loss": "validation loss"}


@dataclass(frozen=True)
class Trained:
    """What a round's training looked like.

    Args:
        label: How the legend calls it.
        colour: Its colour.
        dashes: Its dashes.
        curves: By kind, `acc` and `loss`, where they were logged.
    """

    label: str
    colour: str
    dashes: Any
    curves: dict[str, Curve]


def chosen(runs: Sequence[Run], rounds: Sequence[int] | None) -> dict[str, list[int]]:
    """Return by run the rounds whose training is drawn.

    Args:
        runs: The runs.
        rounds: The choice; if not given, dense, the last that all runs have, and some between.

    Raises:
        ValueError: If no run has finished a round that was chosen.
    """
    if rounds is None:
        common = set.intersection(*(set(run.main.rounds) for run in runs))
        shown = spread_over(sorted(common), 5 if len(runs) == 1 else 3)
        return {run.name: shown for run in runs}
    finished = sorted({number for run in runs for line in run.lines for number in line.rounds})
    if missing := [number for number in rounds if number not in finished]:
        raise ValueError(
            f"rounds={list(rounds)!r}: round {missing[0]} is not finished; finished are "
            f"{', '.join(map(str, finished)) or 'none'}."
        )
    return {run.name: [n for n in run.main.rounds if n in set(rounds)] for run in runs}


def training(runs: Sequence[Run], rounds: Sequence[int] | None = None) -> Picture | None:
    """Return the curves of chosen rounds; None if no round has a `metrics.csv` with any.

    Args:
        runs: The runs.
        rounds: Which rounds; dense, the last and some between if not given.
    """
    trained = _trained(runs, chosen(runs, rounds))
    panels = [kind for kind in KINDS if any(kind in t.curves for t in trained)]
    if not panels:
        return None
    most = max(spread.n for kind in panels for spread in _values(trained, kind))
    drawn = {kind: [t.curves[kind] for t in trained if kind in t.curves] for kind in panels}
    limits = {kind: around_the_best(drawn[kind], kind) for kind in panels}
    caption = "Each curve is a round; at step 0 the network is pruned and not yet retrained."
    if most > 1:
        caption += f" Line: mean over n = {most} seeds; band: lowest to highest seed."
    caption += outside(drawn, limits)
    caption += "".join({cut_words(_values(trained, kind), limits[kind]) for kind in panels})

    def draw(figure: Figure, sheet: Sheet) -> None:
        shape = (len(panels), 1) if sheet.narrow else (1, len(panels))
        entries: dict[str, Artist] = {}
        for number, kind in enumerate(panels):
            axes = figure.add_subplot(*shape, number + 1)
            entries = _draw(axes, trained, kind, limits[kind]) | entries
        order = [t.label for t in trained if t.label in entries]
        shown = [(label, entries[label]) for label in dict.fromkeys(order)]
        if len(runs) > 1:
            shown += [(run.name, sample(DASHES[k % len(DASHES)])) for k, run in enumerate(runs)]
        legend(figure, shown, sheet.width)

    return picture(
        "curves",
        "Validation during training",
        caption,
        draw,
        wide=(7.4, 3.8),
        narrow=(3.9, 3.2 + 2.4 * (len(panels) - 1)),
    )


def _trained(runs: Sequence[Run], rounds: dict[str, list[int]]) -> list[Trained]:
    numbers = sorted({number for levels in rounds.values() for number in levels})
    found = []
    for position, run in enumerate(runs):
        for number in rounds[run.name]:
            label, colour = of_round(run.main, number, numbers, len(runs) > 1)
            # Of one run, dashes too tell rounds apart; of several, they tell runs apart.
            dashes = DASHES[(position if len(runs) > 1 else numbers.index(number)) % len(DASHES)]
            curves = {kind: curve(run.main, number, kind) for kind in KINDS}
            found.append(Trained(label, colour, dashes, {k: c for k, c in curves.items() if c}))
    return found


def of_round(
    line: Line, number: int, numbers: Sequence[int], several: bool = False
) -> tuple[str, str]:
    """Return how a round is called among those that are drawn, and its colour.

    Args:
        line: The line whose round it is.
        number: The round.
        numbers: All rounds that are drawn, in order.
        several: Whether those of several runs are drawn, which differ in density.
    """
    if number == 0:
        return "dense", INK
    level = line.level(number)
    label = f"round {number}"
    if not several:
        label += f" ({per_cent(sum(r.density for r in level) / len(level))} %)"
    return label, look(numbers.index(number) - (0 in numbers)).colour


def _draw(
    axes: Axes, trained: Sequence[Trained], kind: str, limits: tuple[float, float]
) -> dict[str, Artist]:
    from matplotlib.ticker import MaxNLocator

    drawn: dict[str, Artist] = {}
    percent = False
    for item in reversed(trained):  # dense lies on top
        if kind not in item.curves:
            continue
        line = item.curves[kind]
        percent = line.percent
        drawn[item.label] = mean_and_band(
            axes,
            line.steps,
            line.spreads,
            alpha=0.12,
            color=item.colour,
            linestyle=item.dashes,
            linewidth=1.4,
        )
    axes.set_ylim(*limits)
    axes.set_xlim(left=0)
    axes.set_xlabel("step")
    axes.set_ylabel(KINDS[kind] + (" (%)" if percent else ""))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return drawn


def _values(trained: Sequence[Trained], kind: str) -> list[Spread]:
    return [s for item in trained if kind in item.curves for s in item.curves[kind].spreads]


def around_the_best(curves: Sequence[Curve], kind: str) -> tuple[float, float]:
    """Return limits around the best that the first curve reached.

    Args:
        curves: What is drawn.
        kind: `acc` or `loss`.
    """
    best = (max if kind == "acc" else min)(s.mean for s in curves[0].spreads)
    return window([s for each in curves for s in each.spreads], best, reach=_REACH)


def outside(drawn: dict[str, list[Curve]], limits: dict[str, tuple[float, float]]) -> str:
    """Return which means the axes leave out, such as the steep beginning.

    Args:
        drawn: Curves by kind, `acc` or `loss`.
        limits: Of the axis of each kind.
    """
    left_out = []
    for kind, (low, high) in limits.items():
        means = [spread.mean for each in drawn[kind] for spread in each.spreads]
        unit = " %" if any(each.percent for each in drawn[kind]) else ""
        if min(means) < low:
            left_out.append(f"{KINDS[kind]} below {low:.3g}{unit}")
        if max(means) > high:
            left_out.append(f"{KINDS[kind]} above {high:.3g}{unit}")
    return f" The axes leave out {' and '.join(left_out)}." if left_out else ""
