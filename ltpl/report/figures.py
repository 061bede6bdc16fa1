"""All figures of a report, in the order of the page."""

from __future__ import annotations

from collections.abc import Sequence

from ltpl.report import early_bird, instability
from ltpl.report.compacted import compacted
from ltpl.report.ladder import accuracy, early_stop
from ltpl.report.layers import layers
from ltpl.report.lines import Run
from ltpl.report.paths import paths
from ltpl.report.pictures import Picture
from ltpl.report.robustness import robustness
from ltpl.report.tables import Row
from ltpl.report.tradeoffs import tradeoffs
from ltpl.report.training import training
from ltpl.report.trajectories import trajectories
from ltpl.report.weights import weights

NAMES = (
    "accuracy",
    "early_stop",
    "tradeoffs",
    "curves",
    "trajectories",
    "layers",
    "weights",
    "early_bird",
    "early_bird_pairs",
    "paths",
    "instability",
    "instability_rewind",
    "robustness",
    "compacted",
)


def pictures(
    runs: Sequence[Run], table: Sequence[Row], rounds: Sequence[int] | None = None
) -> list[Picture]:
    """Draw what the results allow; a figure without data is left out.

    Args:
        runs: What `read_runs` returned.
        table: What `rows` returned for them.
        rounds: The rounds whose training is drawn.
    """
    drawn = [
        accuracy(table),
        early_stop(table),
        tradeoffs(runs, table),
        training(runs, rounds),
        trajectories(runs, rounds),
        layers(runs),
        weights(runs, rounds),
        early_bird.distances(runs),
        early_bird.pairs(runs),
        paths(runs, rounds),
        instability.by_weights_left(runs),
        instability.by_rewinding_point(runs, rounds),
        robustness(runs, rounds),
        compacted(runs),
    ]
    return [picture for picture in drawn if picture]
