"""Curves of `metrics.csv`: one measure against the step, over the seeds of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ltpl.report.cells import as_number, whole_rows
from ltpl.report.lines import Line
from ltpl.report.score import are_shares
from ltpl.report.spread import Spread
from ltpl.tickets.result import round_folder

FILE = "metrics.csv"
LARGEST = 1e15
MOST_POINTS = 400  # more than that is wider than the figure has pixels for


@dataclass(frozen=True)
class Curve:
    """One validation measure of a round against the step.

    Args:
        tag: Name of the measure in `metrics.csv`.
        steps: Where it was measured.
        spreads: Over the seeds that measured there.
        percent: Whether the values are per cent.
    """

    tag: str
    steps: list[int]
    spreads: list[Spread]
    percent: bool = False


def curve(line: Line, number: int, kind: str) -> Curve | None:
    """Return the validation curve of a round; None if no seed has written any.

    Args:
        line: The main line or a branch.
        number: The round.
        kind: `acc` or `loss`.
    """
    found = [
        read(round_folder(line.folder, result.seed, number) / FILE, kind)
        for result in line.level(number)
    ]
    measured = [(tag, values) for tag, values in found if tag and values]
    if not measured:
        return None
    steps = _thinned(sorted({step for _, values in measured for step in values}))
    percent = kind == "acc" and are_shares(v for _, values in measured for v in values.values())
    scale = 100.0 if percent else 1.0
    spreads = [
        Spread(tuple(scale * values[step] for _, values in measured if step in values))
        for step in steps
    ]
    return Curve(measured[0][0], steps, spreads, percent)


def read(path: Path, kind: str) -> tuple[str, dict[int, float]]:
    """Read one validation measure of a `metrics.csv`, by step.

    A line that is cut short, as in a run that was killed, is left out; so is what is not finite.

    Args:
        path: The file; it may be missing.
        kind: `acc` or `loss`.

    Returns:
        The name of the measure and its values; `""` and nothing if there is none.
    """
    header, rows = whole_rows(path)
    tag = validation_tag(header, kind)
    if "step" not in header or tag is None:
        return "", {}
    at, column = header.index("step"), header.index(tag)
    values = {}
    for cells in rows:
        step, value = as_number(cells[at]), as_number(cells[column])
        # beyond, nothing can be drawn
        if step is not None and value is not None and 0 <= step <= LARGEST >= abs(value):
            values[int(step)] = value
    return tag, values


def validation_tag(tags: Sequence[str], kind: str) -> str | None:
    """Return which of `tags` is the validation accuracy (`acc`) or loss (`loss`), if any.

    Example:
        >>> validation_tag(["step", "train/loss", "val/loss", "val/acc"], "loss")
        'val/loss'
    """
    alike = [t for t in tags if "val" in t.lower() and kind in t.lower()]
    return min(alike, key=lambda t: (t != f"val/{kind}", len(t)), default=None)


def spread_over(rounds: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of the rounds, evenly spread: the first and the last among them.

    Example:
        >>> spread_over(range(21), 5)
        [0, 5, 10, 15, 20]
    """
    if len(rounds) <= most:
        return list(rounds)
    gap = (len(rounds) - 1) / (most - 1)
    return [rounds[round(k * gap)] for k in range(most)]


def _thinned(steps: list[int]) -> list[int]:
    """Return every k-th step and the last, few enough to draw."""
    stride = -(-len(steps) // MOST_POINTS)
    kept = steps[::stride]
    return kept if kept[-1] == steps[-1] else [*kept, steps[-1]]
