"""How figures look: colours, markers, dashes, sizes of type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MINUS = "\u2212"  # as wide as a digit, unlike a hyphen
INK, RULE, PAPER = "#1f2328", "#d7dce1", "#ffffff"
# Okabe and Ito (2008): told apart by colour-blind people too. Black and yellow are left out: one is
# the ink, the other is not seen on white. The last one is Tol's wine, darker than the rest.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.6)),
    (0, (1.4, 1.2)),
    (0, (6, 1.6, 1.4, 1.6)),
    (0, (3, 1.2)),
    (0, (8, 2, 2, 2, 2, 2)),
    (0, (1, 2.4)),
)
FONT = 10.0  # points
STYLE: dict[str, Any] = {
    "svg.hashsalt": "ltpl",  # the same results give the same bytes
    "svg.fonttype": "path",  # text takes the room that was measured, whatever fonts a reader has
    "text.parse_math": False,  # a `$` in a name is a `$`
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": FONT,
    "axes.labelsize": FONT,
    "axes.titlesize": FONT,
    "legend.fontsize": FONT - 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "lines.linewidth": 1.7,
    "lines.markersize": 5.0,
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of a line; together they tell lines apart in grey as well."""

    colour: str
    marker: str
    dashes: Any


def look(number: int) -> Look:
    """Return the look of the line with this number."""
    turn = number + number // len(COLOURS)  # the next cycle of colours has other markers
    return Look(
        COLOURS[number % len(COLOURS)], MARKERS[turn % len(MARKERS)], DASHES[turn % len(DASHES)]
    )


def gradient(number: int, count: int) -> str:
    """Return a colour between the first two, for one of many lines in an order."""
    ends = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in (COLOURS[0], COLOURS[4])]
    share = number / max(1, count - 1)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*ends, strict=True))
