"""The figure of robustness: accuracy under attack, against the strength of the attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltpl.report.axes import band_words, entry_label, legend, mean_and_band, sample
from ltpl.report.cells import as_number, whole_rows
from ltpl.report.lines import Line, Run
from ltpl.report.looks import DASHES
from ltpl.report.pictures import Picture, Sheet, picture
from ltpl.report.score import are_shares
from ltpl.report.spread import Spread
from ltpl.report.training import chosen, of_round
from ltpl.tickets.result import round_folder

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

FILE = "robustness.csv"
MOST_ATTACKS = 4
LARGEST = 1e6  # 255 where pixels are bytes

Attacked = dict[str, dict[float, Spread]]  # attack -> strength -> accuracy over seeds


@dataclass(frozen=True)
class Robust:
    """How well one round withstands attacks.

    Args:
        label: How the legend calls it.
        colour: Its colour.
        dashes: Its dashes.
        attacked: What was measured.
    """

    label: str
    colour: str
    dashes: Any
    attacked: Attacked


def robustness(runs: Sequence[Run], rounds: Sequence[int] | None = None) -> Picture | None:
    """Return the accuracy against the strength of each attack; None if none was measured.

    Args:
        runs: The runs; their main lines are drawn.
        rounds: Which rounds; dense, the last and some between if not given.
    """
    found = _robust(runs, chosen(runs, rounds))
    attacks = list(dict.fromkeys(attack for each in found for attack in each.attacked))
    if not attacks:
        return None
    shown = attacks[:MOST_ATTACKS]
    spreads = [s for r in found for levels in r.attacked.values() for s in levels.values()]
    scale = 100.0 if are_shares(value for spread in spreads for value in spread.values) else 1.0
    caption = (
        "Accuracy on attacked inputs against the strength of the attack (the largest change, eps); "
        f"at 0 inputs are as they were. {band_words(spreads)}"
    )
    if len(attacks) > len(shown):
        caption += f" Not drawn: {', '.join(attacks[MOST_ATTACKS:])}."

    def draw(figure: Figure, sheet: Sheet) -> None:
        from matplotlib.ticker import MaxNLocator

        entries: dict[str, Artist] = {}
        for position, attack in enumerate(shown):
            shape = (len(shown), 1) if sheet.narrow else (1, len(shown))
            axes = figure.add_subplot(*shape, position + 1)
            for each in found:
                levels = each.attacked.get(attack, {})
                scaled = [Spread(tuple(scale * v for v in s.values)) for s in levels.values()]
                if scaled:
                    entries[each.label] = mean_and_band(
                        axes,
                        list(levels),
                        scaled,
                        color=each.colour,
                        linestyle=each.dashes,
                        marker="o",
                        markersize=3.5,
                    )
            axes.set_title(entry_label(attack))
            axes.set_ylim(0, None)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_xlabel("eps")
            if sheet.narrow or not position:
                axes.set_ylabel("accuracy (%)")
        names = [(run.name, sample(DASHES[k % len(DASHES)])) for k, run in enumerate(runs)]
        legend(figure, [*entries.items(), *(names if len(runs) > 1 else [])], sheet.width)

    return picture(
        "robustness",
        "Accuracy under attack",
        caption,
        draw,
        wide=(7.4, 3.8),
        narrow=(3.9, 1.0 + 2.6 * len(shown)),
    )


def _robust(runs: Sequence[Run], rounds: dict[str, list[int]]) -> list[Robust]:
    numbers = sorted({number for levels in rounds.values() for number in levels})
    found = []
    for position, run in enumerate(runs):
        for number in rounds[run.name]:
            label, colour = of_round(run.main, number, numbers, len(runs) > 1)
            dashes = DASHES[(position if len(runs) > 1 else numbers.index(number)) % len(DASHES)]
            if attacked := _over_seeds(run.main, number):
                found.append(Robust(label, colour, dashes, attacked))
    return found


def _over_seeds(line: Line, number: int) -> Attacked:
    measured: dict[str, dict[float, list[float]]] = {}
    for result in line.level(number):
        for (attack, eps), value in read(round_folder(line.folder, result.seed, number) / FILE):
            measured.setdefault(attack, {}).setdefault(eps, []).append(value)
    return {
        attack: {eps: Spread(tuple(values)) for eps, values in sorted(levels.items())}
        for attack, levels in measured.items()
    }


def read(path: Path) -> list[tuple[tuple[str, float], float]]:
    """Return attack, strength and accuracy of each line of a `robustness.csv` that is whole.

    Args:
        path: The file; it may be missing.
    """
    header, rows = whole_rows(path)
    if not {"attack", "eps", "accuracy"} <= set(header):
        return []
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    found = [(r["attack"], as_number(r["eps"]), as_number(r["accuracy"])) for r in cells]
    once = {
        (attack, eps): value
        for attack, eps, value in found
        if eps is not None and 0 <= eps <= LARGEST and value is not None and 0 <= value <= 100
    }
    return list(once.items())
