from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import torch
from left import detectors, record

from ltpl.masks.stability import Detector
from ltpl.report import early_bird, read_runs
from ltpl.report.pictures import inline
from ltpl.report.watched import watched
from ltpl.tickets.result import round_folder


def watched_run(
    folder: Path, seeds: int = 2, rule: str = "paper", name: str = "early_bird"
) -> list[dict[str, Detector]]:
    rng = random.Random()
    synthetic.save(synthetic.begin(folder), [synthetic.result(s, 0, rng) for s in range(seeds)])
    every = [detectors((0.3, 0.5), rule) for _ in range(seeds)]
    for seed, found in enumerate(every):
        path = round_folder(folder, seed, 0) / f"{name}.json"
        path.write_text(json.dumps(record(found, rule)))
    return every


@pytest.mark.parametrize("rule", ["paper", "window"])
def test_distances_are_those_that_the_rule_saw(tmp_path: Path, captured: Any, rule: str) -> None:
    every = watched_run(tmp_path, rule=rule)
    figure, caption = captured(lambda: early_bird.distances(read_runs([tmp_path])))
    (axes,) = figure.axes
    colour = axes.lines[0].get_color()
    to_previous, to_window = [
        each for each in axes.lines if each.get_color() == colour and len(each.get_xdata()) > 2
    ]
    apart = torch.stack([found["0.3"].history.distances for found in every])
    steps = apart.diagonal(1, 1, 2).mean(0)
    assert list(to_previous.get_xdata()) == list(range(2, 13))
    np.testing.assert_allclose(to_previous.get_ydata(), steps)
    last = np.mean([found["0.3"].measured()["to_window"] for found in every])
    assert to_window.get_ydata()[-1] == pytest.approx(last)
    dashed = [each for each in axes.lines if set(each.get_ydata()) == {0.1}]
    assert len(dashed) == 1
    for found in every:
        assert any(
            list(each.get_xdata()) == [found["0.3"].found] and each.get_ydata()[0] <= 0.1
            for each in axes.lines
            if each.get_color() == colour
        )
    epochs = ", ".join(str(found["0.3"].found) for found in every)
    assert f"30 % pruned: {epochs};" in caption
    assert "mean over n = 2 seeds" in caption


def test_all_pairs_are_an_image_with_the_found_epoch_marked(tmp_path: Path, captured: Any) -> None:
    every = watched_run(tmp_path)
    figure, caption = captured(lambda: early_bird.pairs(read_runs([tmp_path])))
    first, second, bar = figure.axes
    for axes, amount in ((first, "0.3"), (second, "0.5")):
        detector = every[0][amount]
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), detector.history.distances)
        (square,) = axes.patches
        assert square.get_xy() == (detector.found - 1.5, detector.found - 1.5)
    assert image.norm.vmax == 0.5
    assert bar.get_ylabel() == "distance"
    assert "seed 0" in caption


def test_images_are_inside_the_page(tmp_path: Path) -> None:
    watched_run(tmp_path)
    runs = read_runs([tmp_path])
    drawn = early_bird.pairs(runs)
    assert drawn == early_bird.pairs(runs)
    svg = inline(drawn.svg, drawn.name, "label")
    assert svg.count("<image") == 3
    assert svg.count('href="data:image/png;base64,') == 3
    assert len(svg) < 60_000


def test_a_ticket_that_was_never_found_is_said_so(tmp_path: Path, captured: Any) -> None:
    watched_run(tmp_path, seeds=1)
    path = round_folder(tmp_path, 0, 0) / "early_bird.json"
    content = json.loads(path.read_text())
    content["amounts"]["0.5"]["found"] = None
    path.write_text(json.dumps(content))
    _, caption = captured(lambda: early_bird.distances(read_runs([tmp_path])))
    assert caption.endswith("50 % pruned: none.")


@pytest.mark.parametrize(
    "change",
    [
        {"distances": [[0, 1], [1, 0]]},
        {"distances": "far"},
        {"distances": [[float("nan")] * 12] * 12},
        {"epochs": [1] * 12},
        {"epochs": list(range(12, 0, -1))},
        {"found": 99},
        {"threshold": None},
        {"threshold": float("inf")},
        {"epochs": [*range(11), 10**30]},
        {"epochs": [1], "distances": [[0.0]], "found": None},
    ],
)
def test_what_is_damaged_is_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    watched_run(tmp_path, seeds=1)
    path = round_folder(tmp_path, 0, 0) / "early_bird.json"
    content = json.loads(path.read_text())
    content["amounts"]["0.3"] |= change
    path.write_text(json.dumps(content))
    assert [each.amount for each in watched(read_runs([tmp_path]))] == [0.5]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"amounts": 3}', '{"amounts": {"0.3": {}}}'])
def test_without_distances_there_is_no_figure(tmp_path: Path, text: str) -> None:
    watched_run(tmp_path, seeds=1)
    (round_folder(tmp_path, 0, 0) / "early_bird.json").write_text(text)
    assert early_bird.distances(read_runs([tmp_path])) is None
    assert early_bird.pairs(read_runs([tmp_path])) is None


def test_several_runs_and_names_are_told_apart(tmp_path: Path) -> None:
    watched_run(tmp_path / "a", seeds=1)
    watched_run(tmp_path / "b", seeds=1)
    watched_run(tmp_path / "b", seeds=1, name="other")
    labels = [each.label for each in watched(read_runs([tmp_path / "a", tmp_path / "b"]))]
    assert labels == [
        *("a 30 % pruned", "a 50 % pruned", "b early_bird 30 % pruned"),
        *("b early_bird 50 % pruned", "b other 30 % pruned", "b other 50 % pruned"),
    ]
