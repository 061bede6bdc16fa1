"""Numbers beside the points of a figure, where there is room."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 7.5  # points
_SIDES = ((1, 0.0), (1, 5.0), (-1, -5.0), (-1, 0.0))  # right or left of a point, and how far up
_GAP = 5.0
_SAMPLES = 12  # of a segment of a line

Size = tuple[float, float]
Box = tuple[float, float, float, float]  # left, right, bottom, top


@dataclass(frozen=True)
class Beside:
    """A number and the point that it belongs to.

    Args:
        x: The point.
        y: The point.
        text: The number.
        colour: Its colour.
    """

    x: float
    y: float
    text: str
    colour: str


def write_beside(
    axes: Axes, numbers: Sequence[Beside], lines: Sequence[list[tuple[float, float]]], size: Size
) -> None:
    """Write numbers where they hide no line, no point and no other number.

    Args:
        axes: The axes; their limits are set.
        numbers: What to write, the most important first; what was written at an x is not
            written there again.
        lines: The lines that are drawn, as points.
        size: Width and height of the axes in points, about.
    """
    low, high = axes.get_ylim()
    scale = math.log if axes.get_xscale() == "log" else float
    left, right = map(scale, axes.get_xlim())
    width, height = size

    def place(x: float, y: float) -> tuple[float, float]:
        return width * (scale(x) - left) / (right - left), height * (y - low) / (high - low)

    taken: list[Box] = []
    for line in lines:
        places = [place(x, y) for x, y in line]
        taken += [(x - 3, x + 3, y - 3, y + 3) for x, y in places]
        for (x, y), (to_x, to_y) in itertools.pairwise(places):
            shares = [k / _SAMPLES for k in range(1, _SAMPLES)]
            between = [(x + k * (to_x - x), y + k * (to_y - y)) for k in shares]
            taken += [(across, across, up, up) for across, up in between]
    said = set()
    for number in numbers:
        for side, up in _SIDES:
            x, y = place(number.x, number.y)
            long = 0.64 * SIZE * len(number.text)
            begin = x + _GAP if side > 0 else x - _GAP - long
            box = (begin, begin + long, y + up - SIZE / 2, y + up + SIZE / 2)
            inside = begin > 0 and box[1] < width and box[2] > 0 and box[3] < height
            if (number.x, number.text) in said or not inside or _hides(box, taken):
                continue
            taken.append(box)
            said.add((number.x, number.text))
            axes.annotate(
                number.text,
                (number.x, number.y),
                xytext=(_GAP * side, up),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                fontsize=SIZE,
                color=number.colour,
            )


def _hides(box: Box, others: Sequence[Box]) -> bool:
    return any(
        o[0] <= box[1] and box[0] <= o[1] and o[2] <= box[3] and box[2] <= o[3] for o in others
    )
