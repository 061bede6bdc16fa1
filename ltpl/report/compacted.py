"""The figure of small networks: what `ltpl compact` has left of the dense one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltpl.report.axes import entry_label
from ltpl.report.lines import Run
from ltpl.report.looks import COLOURS, INK, RULE
from ltpl.report.pictures import Picture, Sheet, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "report.json"
MOST = 8
LONGEST = 130.0  # per cent, where the numbers beside a bar still have room; latency may be longer
COUNTS = {
    "parameters": "parameters",
    "macs": "multiply-adds",
    "bytes": "size",
    "latency": "latency",
}


@dataclass(frozen=True)
class Small:
    """A compacted network.

    Args:
        label: Its folder in the run.
        counts: By key of `COUNTS`: of the dense network, and of the small one.
    """

    label: str
    counts: dict[str, tuple[float, float]]


def compacted(runs: Sequence[Run]) -> Picture | None:
    """Return sizes of the small networks beside the dense one; None if a run holds none.

    Args:
        runs: The runs; a compacted network may lie anywhere in their folders.
    """
    found = [small for run in runs for small in smalls(run, len(runs) > 1)]
    keys = [key for key in COUNTS if any(key in small.counts for small in found)]
    if not keys:
        return None
    shown = found[:MOST]
    caption = (
        "What is left of the dense network (the whole bar) after its dead channels were removed, "
        "and both numbers beside it."
    )
    shares = [100 * left / dense for s in shown for dense, left in s.counts.values()]
    if max(shares) > LONGEST:
        caption += f" Bars beyond {LONGEST:.0f} % are cut there."
    if len(found) > len(shown):
        caption += f" {len(shown)} of {len(found)} networks are drawn."
    rows = 0.55 + 0.42 * len(shown)
    return picture(
        "compacted",
        "Compacted networks",
        caption,
        lambda figure, sheet: _draw(figure, sheet, shown, keys),
        wide=(7.4, 0.4 + rows * math.ceil(len(keys) / 2)),
        narrow=(3.9, 0.4 + (rows + 0.2) * len(keys)),
    )


def smalls(run: Run, several: bool = False) -> list[Small]:
    """Return the compacted networks in the folder of a run, by path.

    Args:
        run: The run.
        several: Whether their labels say which run they are of.
    """
    found = []
    for path in sorted(run.folder.rglob(FILE)):
        if counts := _counts(path):
            name = path.parent.relative_to(run.folder).as_posix()
            found.append(Small(f"{run.name}: {name}" if several else name, counts))
    return found


def _counts(path: Path) -> dict[str, tuple[float, float]]:
    try:
        record: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    pairs: dict[str, Any] = record if isinstance(record, dict) else {}
    return {key: (pairs[key][0], pairs[key][1]) for key in COUNTS if _is_pair(pairs.get(key))}


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(n, int | float) and 0 <= n < 1e18 for n in pair)
        and pair[0] > 0
    )


def written(key: str, count: float) -> str:
    """Return a count as people read it.

    Example:
        >>> written("macs", 40551040), written("bytes", 1078888), written("latency", 0.00371)
        ('40.6M', '1.08 MB', '3.71 ms')
    """
    if key == "latency":
        return f"{1000 * count:.3g} ms"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            unit = f" {letter}B" if key == "bytes" else letter
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}" + (" B" if key == "bytes" else "")


def _draw(figure: Figure, sheet: Sheet, shown: Sequence[Small], keys: Sequence[str]) -> None:
    columns = 1 if sheet.narrow else min(2, len(keys))
    for position, key in enumerate(keys):
        axes = figure.add_subplot(math.ceil(len(keys) / columns), columns, position + 1)
        for place, small in enumerate(shown):
            if key not in small.counts:
                continue
            dense, left = small.counts[key]
            axes.barh(place, 100, color=RULE, height=0.66)
            share = min(LONGEST, 100 * left / dense)
            axes.barh(place, share, color=COLOURS[0], height=0.66)
            text, beside = f"{written(key, left)} of {written(key, dense)}", max(100.0, share) + 3
            axes.text(beside, place, text, va="center_baseline", fontsize=8, color=INK)
        axes.set_yticks(range(len(shown)), [entry_label(small.label) for small in shown])
        if position % columns:
            axes.set_yticklabels([])
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xticks([0, 50, 100])
        axes.set_xlim(0, 168)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title(f"{COUNTS[key]}, % of dense", fontsize=9.5, loc="left")
