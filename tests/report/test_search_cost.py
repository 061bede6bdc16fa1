from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import synthetic

from ltpl.report import Run, read_runs, rows, tradeoffs
from ltpl.report.beside import Beside, write_beside
from ltpl.report.cost import cost, is_one_shot, traded

EPOCHS = (160.0, 10.0, 7.0, 5.0)


@pytest.fixture
def rng() -> random.Random:
    return random.Random()


def branch(folder: Path, name: str, results: list[Any], **about: Any) -> None:
    path = folder / "branches" / name
    synthetic.save(path, results)
    (path / "branch.json").write_text(json.dumps(about))


def the_run(folder: Path, rng: random.Random, seeds: int = 1, **config: Any) -> Run:
    """A main line, and branches `finetune`, `one_shot`, `own` (a ladder) and `reinit`."""
    synthetic.begin(folder, config=config)
    each = [(s, k) for s in range(seeds) for k in range(4)]
    synthetic.save(folder, [synthetic.result(s, k, rng, epochs=EPOCHS[k]) for s, k in each])
    pruned = [(s, k) for s, k in each if k]
    for name, kind, spent in (
        ("finetune", "finetune", 2.0),
        ("one_shot", "one_shot", 3.0),
        ("own", "ladder", 4.0),
        ("at_once", "ladder", 6.0),
        ("reinit", "reinit", 1.0),
    ):
        found = [
            synthetic.result(
                *(s, k, rng), branch=name, epochs=spent, made_by={"policy": "finetune"}
            )
            for s, k in pruned
        ]
        branch(folder, name, found, kind=kind, config={"branch": {"one_shot": name == "at_once"}})
    return read_runs([folder])[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, [10, 17, 22]),
        ("finetune", [2, 12, 19]),
        ("one_shot", [3, 3, 3]),
        ("own", [4, 8, 12]),
        ("at_once", [6, 6, 6]),
    ],
)
def test_search_cost_is_all_that_was_trained_after_the_dense_network(
    tmp_path: Path, rng: random.Random, name: str | None, expected: list[float]
) -> None:
    run = the_run(tmp_path, rng)
    (line,) = [each for each in run.lines if each.branch == name]
    assert [cost(run, line, 0, k) for k in (1, 2, 3)] == expected


def test_where_the_main_line_is_one_shot_each_level_costs_its_own_training(
    tmp_path: Path, rng: random.Random
) -> None:
    run = the_run(tmp_path, rng, one_shot=True)
    costs = {line.branch: [cost(run, line, 0, k) for k in (1, 2, 3)] for line in run.lines}
    assert costs[None] == [10, 7, 5]
    assert costs["finetune"] == [2, 2, 2]
    assert costs["own"] == [4, 8, 12]
    assert [is_one_shot(run, line) for line in run.lines if line.branch in (None, "own")] == [
        True,
        False,
    ]


def test_a_round_that_is_missing_or_counted_no_epochs_makes_the_cost_unknown(
    tmp_path: Path, rng: random.Random
) -> None:
    synthetic.begin(tmp_path)
    known = {0: 9.0, 1: 3.0, 2: None, 3: 3.0}
    synthetic.save(tmp_path, [synthetic.result(0, k, rng, epochs=e) for k, e in known.items()])
    branch(
        tmp_path, "own", [synthetic.result(0, k, rng, epochs=2.0) for k in (1, 3)], kind="ladder"
    )
    run = read_runs([tmp_path])[0]
    assert [cost(run, run.main, 0, k) for k in (1, 2, 3)] == [3, None, None]
    assert [cost(run, run.branches[0], 0, k) for k in (1, 3)] == [2, None]


def test_controls_are_no_ways_of_retraining(tmp_path: Path, rng: random.Random) -> None:
    run = the_run(tmp_path, rng)
    labels = [line.label for line in traded([run], rows([run])[0].measure)]
    assert labels == [
        *("ticket (rewind)", "at_once (finetune)", "finetune", "one_shot (finetune)"),
        "own (finetune)",
    ]


def test_scores_are_drawn_against_compression_and_against_cost(
    tmp_path: Path, captured: Any, rng: random.Random
) -> None:
    run = the_run(tmp_path, rng, seeds=3)
    figure, caption = captured(lambda: tradeoffs.tradeoffs([run], rows([run])))
    compression, costs = figure.axes
    for axes, xs in ((compression, [0.8**-k for k in (1, 2, 3)]), (costs, [10, 17, 22])):
        (line,) = [each for each in axes.lines if each.get_label() == axes.lines[-2].get_label()]
        means = [sum(100 * r.test_acc for r in run.main.level(k)) / 3 for k in (1, 2, 3)]
        assert list(line.get_xdata()) == pytest.approx(xs, rel=1e-3)
        assert list(line.get_ydata()) == pytest.approx(means)
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names[-2:] == ["iterative", "one-shot"]
    one_shot = [each for each in costs.lines if each.get_markerfacecolor() == "#ffffff"]
    assert {each.get_linestyle() for each in one_shot} == {"--"}
    assert len(one_shot) == 2
    assert compression.get_xscale() == "log"
    assert "51.2" in {text.get_text() for text in costs.texts}
    assert "Training the dense network is not counted" in caption
    assert "mean over n = 3 seeds" in caption


def test_a_line_whose_epochs_were_not_counted_is_named(
    tmp_path: Path, captured: Any, rng: random.Random
) -> None:
    the_run(tmp_path, rng)
    branch(tmp_path, "one_shot", [synthetic.result(0, k, rng) for k in (1, 2)], kind="one_shot")
    branch(tmp_path, "finetune", [synthetic.result(0, k, rng) for k in (1, 2)], kind="finetune")
    run = read_runs([tmp_path])[0]
    figure, caption = captured(lambda: tradeoffs.tradeoffs([run], rows([run])))
    assert "not counted: finetune, one_shot (finetune)." in caption
    lines = [[each for each in a.lines if each.get_marker() != "None"] for a in figure.axes]
    assert [len(each) for each in lines] == [5, 3]


def test_of_unknown_cost_only_compression_is_drawn_and_one_line_alone_is_not(
    tmp_path: Path, captured: Any, rng: random.Random
) -> None:
    synthetic.save(synthetic.begin(tmp_path), [synthetic.result(0, k, rng) for k in range(3)])
    run = read_runs([tmp_path])[0]
    assert tradeoffs.tradeoffs([run], rows([run])) is None
    branch(tmp_path, "finetune", [synthetic.result(0, k, rng) for k in (1, 2)], kind="finetune")
    run = read_runs([tmp_path])[0]
    figure, caption = captured(lambda: tradeoffs.tradeoffs([run], rows([run])))
    assert len(figure.axes) == 1
    assert "Search cost" not in caption


def test_numbers_beside_points_never_overlap(rng: random.Random) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((4, 3), dpi=72)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    points = [(rng.random(), rng.random()) for _ in range(60)]
    numbers = [Beside(x, y, f"{100 * x:.1f}", "#000000") for x, y in points]
    write_beside(axes, numbers, [[p] for p in points], (288, 216))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert boxes
    for k, box in enumerate(boxes):
        others = boxes[k + 1 :]
        assert not any(
            box.x0 < o.x1 - 1 and o.x0 < box.x1 - 1 and box.y0 < o.y1 - 2 and o.y0 < box.y1 - 2
            for o in others
        )
    assert len({(t.xy[0], t.get_text()) for t in axes.texts}) == len(axes.texts)
