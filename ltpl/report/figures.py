"""All figures of a report, in the order of the page."""

from __future__ import annotations

from collections.abc import Sequence

from ltpl.report.ladder import accuracy, early_stop
from ltpl.report.layers import layers
from ltpl.report.lines import Run
from ltpl.report.pictures import Picture
from ltpl.report.tables import Row
from ltpl.report.training import training

NAMES = ("accuracy", "early_stop", "curves", "layers")


def pictures(
    runs: Sequence[Run], table: Sequence[Row], rounds: Sequence[int] | None = None
) -> list[Picture]:
    """Draw what the results allow; a figure without data is left out.

    Args:
        runs: What `read_runs` returned.
        table: What `rows` returned for them.
        rounds: The rounds whose training is drawn.
    """
    drawn = [accuracy(table), early_stop(table), training(runs, rounds), layers(runs)]
    return [picture for picture in drawn if picture]
