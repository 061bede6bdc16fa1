from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ltpl.report import (
    compacted,
    early_bird,
    instability,
    ladder,
    layers,
    paths,
    robustness,
    tradeoffs,
    training,
    trajectories,
    weights,
)
from ltpl.report.looks import STYLE
from ltpl.report.pictures import Sheet

SHEETS = [Sheet(7.4, 4.2), Sheet(3.9, 3.9, narrow=True)]
ROOMS = (
    *(compacted, early_bird, instability, ladder, layers, paths, robustness, tradeoffs, training),
    trajectories,
    weights,
)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, int], tuple[Figure, str]]:
    """Return a function that draws a picture as a live figure, and gives its caption."""
    found: list[Any] = []
    for room in ROOMS:
        monkeypatch.setattr(
            room, "picture", lambda name, title, caption, draw, **_: found.append((caption, draw))
        )

    def drawn(make: Callable[[], Any], sheet: int = 0) -> tuple[Figure, str]:
        found.clear()
        make()
        caption, draw = found[0]
        with style.context(["default", STYLE]):
            figure = Figure((SHEETS[sheet].width, SHEETS[sheet].height), layout="constrained")
            FigureCanvasAgg(figure)
            draw(figure, SHEETS[sheet])
            figure.canvas.draw()
        return figure, caption

    return drawn
