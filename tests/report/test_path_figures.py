from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import synthetic
from left import PLACES, bump, path_csv

from ltpl.report import between, instability, paths, read_runs
from ltpl.tickets.result import Result, round_folder


def reordered(folder: Path, heights: dict[int, list[float]], raw: bool = True) -> list[Result]:
    """Write a run with a branch `reorder`: by round, the height of the bump of each seed."""
    rng = random.Random()
    seeds = range(max(map(len, heights.values())))
    synthetic.save(
        synthetic.begin(folder), [synthetic.result(s, k, rng) for s in seeds for k in range(4)]
    )
    branch = folder / "branches" / "reorder"
    found = [synthetic.result(s, k, rng) for k in heights for s in range(len(heights[k]))]
    synthetic.save(branch, found)
    (branch / "branch.json").write_text(json.dumps({"kind": "reorder"}))
    for each in found:
        path_csv(
            round_folder(branch, each.seed, each.round), bump(heights[each.round][each.seed]), raw
        )
    return found


def test_the_error_along_the_line_is_a_mean_over_seeds(tmp_path: Path, captured: Any) -> None:
    reordered(tmp_path, {0: [0.3, 0.1], 2: [0.05, 0.01]})
    figure, caption = captured(lambda: paths.paths(read_runs([tmp_path])))
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "validation error (%)",
        "training error (%)",
    ]
    raw, again, *_ = figure.axes[0].lines
    assert list(again.get_xdata()) == PLACES
    assert list(again.get_ydata()) == pytest.approx([100 * bump(0.2)(a) for a in PLACES])
    assert list(raw.get_ydata()) == pytest.approx([100 * bump(0.2)(a) + 20 for a in PLACES])
    assert raw.get_linestyle() != again.get_linestyle() == "-"
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["dense", "round 2 (64.0 %)", "re-estimated", "interpolated"]
    assert "mean over n = 2 seeds" in caption


def test_instability_is_the_rise_above_the_mean_of_both_ends(tmp_path: Path, captured: Any) -> None:
    reordered(tmp_path, {0: [0.3, 0.1], 1: [0.0, 0.0], 3: [0.05, 0.01]})
    figure, caption = captured(lambda: instability.by_weights_left(read_runs([tmp_path])))
    (axes,) = figure.axes
    raw, again, stable = axes.lines
    rises = {
        height: 100 * max(bump(height)(a) for a in PLACES) - 2.5 for height in (0.3, 0.1, 0.05)
    }
    rises[0.01] = 100 * max(bump(0.01)(a) for a in PLACES) - 2.5
    expected = [(rises[0.3] + rises[0.1]) / 2, 0.5, (rises[0.05] + rises[0.01]) / 2]
    assert list(again.get_xdata()) == pytest.approx([1, 0.8, 0.512], rel=1e-3)
    assert list(again.get_ydata()) == pytest.approx(expected)
    assert list(raw.get_ydata()) == pytest.approx(expected)
    assert set(stable.get_ydata()) == {2}
    corners = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert max(corners) == pytest.approx(rises[0.3])
    assert "validation error" in caption


def test_without_batchnorm_there_is_one_line_a_branch(tmp_path: Path, captured: Any) -> None:
    reordered(tmp_path, {0: [0.3], 2: [0.0]}, raw=False)
    figure, caption = captured(lambda: instability.by_weights_left(read_runs([tmp_path])))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["reorder", "2 points"]
    assert "BatchNorm" not in caption
    figure, _ = captured(lambda: paths.paths(read_runs([tmp_path])))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["dense", "round 2 (64.0 %)"]


def test_chosen_rounds_are_drawn(tmp_path: Path, captured: Any) -> None:
    reordered(tmp_path, {0: [0.3], 1: [0.2], 2: [0.1], 3: [0.0]}, raw=False)
    runs = read_runs([tmp_path])
    figure, _ = captured(lambda: paths.paths(runs, [1, 3]))
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["round 1 (80.0 %)", "round 3 (51.2 %)"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("alpha", "beta"),
        lambda text: text.replace("\n0.0,", "\n0.05,"),
        lambda text: "\n".join(line + ",1" if "." in line else line for line in text.split("\n")),
        lambda text: text.replace(",1.0,", ",1e300,"),
        lambda text: "\0" + text,
        lambda text: text.replace("0.2", "\ud800"),
    ],
)
def test_a_path_without_both_ends_is_left_out(tmp_path: Path, damage: Any) -> None:
    file = path_csv(tmp_path, bump(0.1))
    assert set(between.read(tmp_path)) == {
        "val_error",
        "train_error",
        "raw_val_error",
        "raw_train_error",
    }
    file.write_text(damage(file.read_text()), errors="surrogatepass")
    assert between.read(tmp_path) == {}


def test_a_folder_in_the_place_of_a_path_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "path.csv").mkdir()
    assert between.read(tmp_path) == {}


def test_errors_that_are_none_are_left_out(tmp_path: Path) -> None:
    file = path_csv(tmp_path, bump(0.1))
    rows = [line.split(",") for line in file.read_text().split()]
    rows[3][3] = ""
    rows[4][3] = "nan"
    rows[1][1] = "-1"
    file.write_text("\n".join(map(",".join, rows)))
    found = between.read(tmp_path)
    assert list(found["val_error"]) == [0, 0.1, *PLACES[4:]]
    assert "train_error" not in found


def test_without_paths_there_is_no_figure(tmp_path: Path) -> None:
    runs = read_runs([synthetic.run(tmp_path)])
    assert paths.paths(runs) is None
    assert instability.by_weights_left(runs) is None
    assert instability.by_rewinding_point(runs) is None
