from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import synthetic

from ltpl.report.lines import read_runs
from ltpl.report.trajectories import MOST, trajectories


def with_branches(folder: Path, names: list[str]) -> Path:
    rng = random.Random(0)
    dense = synthetic.result(0, 0, rng)
    synthetic.save(synthetic.begin(folder), [dense])
    synthetic.metrics(folder, dense, rng, range(0, 101, 10))
    for name in names:
        for number in (1, 2, 3):
            retrained = synthetic.result(0, number, rng)
            synthetic.save(folder / "branches" / name, [retrained])
            synthetic.metrics(folder / "branches" / name, retrained, rng, range(0, 101, 10))
    return folder


def test_each_branch_has_a_panel_with_its_rounds_and_the_dense_network(
    tmp_path: Path, captured: Any
) -> None:
    names = ["late", "task_4_epoch_10", "task_4_epoch_2"]
    run = with_branches(tmp_path, names)
    figure, caption = captured(lambda: trajectories(read_runs([run])))
    assert [axes.get_title("left") for axes in figure.axes] == [
        "late",
        "task_4_epoch_2",
        "task_4_epoch_10",
    ]
    assert all(len(axes.lines) == 4 for axes in figure.axes)
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["dense", "round 1", "round 2", "round 3"]
    assert "One seed" in caption


def test_rounds_can_be_chosen_that_only_branches_have(tmp_path: Path, captured: Any) -> None:
    run = with_branches(tmp_path, ["task_2"])
    figure, _ = captured(lambda: trajectories(read_runs([run]), [0, 3]))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["dense", "round 3"]


def test_more_branches_than_have_room_are_counted(tmp_path: Path, captured: Any) -> None:
    run = with_branches(tmp_path, [f"branch_{number}" for number in range(MOST + 2)])
    figure, caption = captured(lambda: trajectories(read_runs([run])))
    assert len(figure.axes) == MOST
    assert caption.endswith("12 of 14 branches are drawn.")


@pytest.mark.parametrize("names", [[], ["reinit"]])
def test_without_curves_of_branches_there_is_no_figure(tmp_path: Path, names: list[str]) -> None:
    run = with_branches(tmp_path, names)
    for path in run.glob("branches/*/*/*/metrics.csv"):
        path.unlink()
    assert trajectories(read_runs([run])) is None
