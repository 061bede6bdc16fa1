from __future__ import annotations

import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
import synthetic

from ltpl.report import Run, ladder, layers, read_runs, rows, training
from ltpl.report.looks import look


@pytest.fixture
def rng() -> random.Random:
    return random.Random()


def the_run(folder: Path, accuracies: list[float]) -> Run:
    rng = random.Random()
    results = [synthetic.result(0, k, rng, test_acc=a) for k, a in enumerate(accuracies)]
    synthetic.save(synthetic.begin(folder), results)
    return read_runs([folder])[0]


def test_accuracy_is_drawn_as_mean_and_band_over_seeds(
    tmp_path: Path, captured: Any, rng: random.Random
) -> None:
    results = [synthetic.result(s, k, rng) for s in range(3) for k in range(5)]
    synthetic.save(synthetic.begin(tmp_path), results)
    table = rows(read_runs([tmp_path]))
    figure, caption = captured(lambda: ladder.accuracy(table))
    (axes,) = figure.axes
    levels = [[100 * r.test_acc for r in results if r.round == k] for k in range(5)]
    line = max(axes.lines, key=lambda each: len(each.get_xdata()))
    assert list(line.get_xdata()) == pytest.approx([0.8**k for k in range(5)], rel=1e-3)
    assert list(line.get_ydata()) == pytest.approx([statistics.mean(v) for v in levels])
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert min(corners) == pytest.approx(min(map(min, levels)))
    assert max(corners) == pytest.approx(max(map(max, levels)))
    dense = next(each for each in axes.lines if each is not line)
    assert set(dense.get_ydata()) == {line.get_ydata()[0]}
    assert axes.get_ylabel() == "test accuracy (%)"
    assert "mean over n = 3 seeds; band: lowest to highest seed" in caption
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["ticket", "dense"]


def test_what_lies_outside_is_named_in_the_caption(tmp_path: Path, captured: Any) -> None:
    run = the_run(tmp_path, [0.979, 0.98, 0.981, 0.98, 0.978, 0.1135])
    figure, caption = captured(lambda: ladder.accuracy(rows([run])))
    assert "Outside the axes: ticket at 32.8 % (11.35 %)." in caption
    assert figure.axes[0].get_ylim()[0] > 90


def test_nothing_outside_nothing_said(tmp_path: Path, captured: Any) -> None:
    run = the_run(tmp_path, [0.979, 0.98, 0.97])
    assert "Outside" not in captured(lambda: ladder.accuracy(rows([run])))[1]


def test_lines_differ_in_colour_and_in_grey() -> None:
    for count, of in ((7, "colour"), (7, "marker"), (7, "dashes")):
        assert len({getattr(look(k), of) for k in range(count)}) == count
    assert len({(each.colour, each.marker) for each in map(look, range(49))}) == 49


def test_axes_speak_of_loss_where_there_is_no_accuracy(
    tmp_path: Path, captured: Any, rng: random.Random
) -> None:
    results = [synthetic.result(0, k, rng, **synthetic.without_accuracy(rng)) for k in range(3)]
    synthetic.save(synthetic.begin(tmp_path), results)
    figure, _ = captured(lambda: ladder.accuracy(rows(read_runs([tmp_path]))))
    assert figure.axes[0].get_ylabel() == "test loss"


def test_the_caption_says_when_nothing_was_tested(
    tmp_path: Path, captured: Any, rng: random.Random
) -> None:
    results = [synthetic.result(0, k, rng, test={}, test_acc=None) for k in range(3)]
    synthetic.save(synthetic.begin(tmp_path), results)
    figure, caption = captured(lambda: ladder.accuracy(rows(read_runs([tmp_path]))))
    assert figure.axes[0].get_ylabel() == "validation accuracy (%)"
    assert "Nothing was tested" in caption


def test_early_stop_starts_at_zero_and_is_left_out_where_unknown(
    tmp_path: Path, captured: Any, rng: random.Random
) -> None:
    results = [synthetic.result(0, k, rng) for k in range(3)]
    synthetic.save(synthetic.begin(tmp_path), results)
    figure, _ = captured(lambda: ladder.early_stop(rows(read_runs([tmp_path]))))
    line = max(figure.axes[0].lines, key=lambda each: len(each.get_xdata()))
    assert list(line.get_ydata()) == [r.early_stop_step for r in results]
    assert figure.axes[0].get_ylim()[0] == 0
    synthetic.save(tmp_path, [synthetic.result(0, k, rng, early_stop_step=None) for k in range(3)])
    assert ladder.early_stop(rows(read_runs([tmp_path]))) is None


def test_each_line_of_two_runs_has_its_own_look_and_dense_shares_it(
    tmp_path: Path, captured: Any
) -> None:
    runs = read_runs([synthetic.run(tmp_path / "a", seed=1), synthetic.run(tmp_path / "b", seed=2)])
    figure, _ = captured(lambda: ladder.accuracy(rows(runs)))
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["a", "b", "a: reinit", "b: reinit"]
    lines = [each for each in figure.axes[0].lines if each.get_marker() != "None"]
    dense = [each for each in figure.axes[0].lines if each.get_marker() == "None"]
    assert len({each.get_color() for each in lines}) == 4
    for each in dense:
        (owner,) = [line for line in lines if line.get_color() == each.get_color()]
        assert owner.get_ydata()[0] == each.get_ydata()[0]


def test_training_shows_the_chosen_rounds(tmp_path: Path, captured: Any) -> None:
    runs = read_runs([synthetic.run(tmp_path, levels=8)])
    figure, caption = captured(lambda: training.training(runs, [0, 3, 7]))
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels == ["dense", "round 3 (51.2 %)", "round 7 (21.0 %)"]
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "validation accuracy (%)",
        "validation loss",
    ]
    assert all(len(axes.lines) == 3 for axes in figure.axes)
    assert "mean over n = 2 seeds" in caption
    phone, _ = captured(lambda: training.training(runs, [0, 3, 7]), 1)
    assert phone.axes[0].get_position().y0 > phone.axes[1].get_position().y1


def test_the_steep_beginning_of_training_is_left_out(tmp_path: Path, captured: Any) -> None:
    run = the_run(tmp_path, [0.9])
    accuracies = [0.1, *(0.9 + 0.001 * (k % 7) for k in range(40))]
    lines = [f"{100 * k},0,{value}" for k, value in enumerate(accuracies)]
    path = tmp_path / "seed_0" / "round_00" / "metrics.csv"
    path.write_text("\n".join(["step,epoch,val/acc", *lines, ""]))
    figure, caption = captured(lambda: training.training([run]))
    (axes,) = figure.axes
    assert 80 < axes.get_ylim()[0] < 90
    assert caption.endswith("retrained. The axes leave out validation accuracy below 90 %.")


def test_two_runs_are_compared_at_rounds_that_both_have(tmp_path: Path, captured: Any) -> None:
    runs = read_runs(
        [synthetic.run(tmp_path / "a", levels=9), synthetic.run(tmp_path / "b", levels=5)]
    )
    figure, _ = captured(lambda: training.training(runs))
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels == ["dense", "round 2", "round 4", "a", "b"]


def test_a_round_that_is_not_finished_cannot_be_chosen(tmp_path: Path) -> None:
    runs = read_runs([synthetic.run(tmp_path, levels=3)])
    with pytest.raises(ValueError, match=r"round 9 is not finished; finished are 0, 1, 2\.$"):
        training.training(runs, [0, 9])


def test_layers_are_means_over_seeds_under_short_names(
    tmp_path: Path, captured: Any, rng: random.Random
) -> None:
    shares = {(0, 0): 60, (1, 0): 60, (0, 1): 30, (1, 1): 40}
    results = [
        synthetic.result(s, k, rng, layers=[("net.a.weight", n, 60), ("net.b.weight", 1, 1)])
        for (s, k), n in shares.items()
    ]
    synthetic.save(synthetic.begin(tmp_path), results)
    figure, _ = captured(lambda: layers.layers(read_runs([tmp_path])))
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([1, 35 / 60])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]
    assert figure.axes[0].get_yscale() == "log"


def test_where_the_main_line_is_dense_the_layers_of_the_longest_branch_are_drawn(
    tmp_path: Path, captured: Any, rng: random.Random
) -> None:
    synthetic.save(synthetic.begin(tmp_path), [synthetic.result(0, 0, rng)])
    for name, levels in (("a", [1]), ("task_2", [1, 2, 3])):
        results = [synthetic.result(0, number, rng) for number in levels]
        synthetic.save(tmp_path / "branches" / name, results)
    figure, caption = captured(lambda: layers.layers(read_runs([tmp_path])))
    assert all(list(line.get_xdata()) == [0, 1, 2, 3] for line in figure.axes[0].lines)
    assert caption.endswith("Drawn: task_2.")


def test_an_empty_layer_is_named(tmp_path: Path, captured: Any, rng: random.Random) -> None:
    results = [
        synthetic.result(0, k, rng, layers=[("net.a.weight", 5 - 5 * k, 5), ("net.b.weight", 1, 2)])
        for k in (0, 1)
    ]
    synthetic.save(synthetic.begin(tmp_path), results)
    figure, caption = captured(lambda: layers.layers(read_runs([tmp_path])))
    assert math.isnan(figure.axes[0].lines[0].get_ydata()[1])  # not at the bottom of the axis
    assert caption.endswith("Pruned away altogether: a.")


def test_of_many_layers_the_legend_names_the_extremes(
    tmp_path: Path, captured: Any, rng: random.Random
) -> None:
    kept = [50] * 30
    kept[7], kept[20] = 99, 2
    named = [(f"net.{k}.weight", n, 100) for k, n in enumerate(kept)]
    results = [synthetic.result(0, 1, rng, layers=named)]
    synthetic.save(synthetic.begin(tmp_path), results)
    figure, caption = captured(lambda: layers.layers(read_runs([tmp_path])))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["0", "7", "20", "29"]
    assert len(figure.axes[0].lines) == 30
    assert "30 layers" in caption


def test_names_of_modules_that_all_share_are_left_out() -> None:
    assert layers.short(["net.a.0.weight", "net.a.1.weight"]) == ["0", "1"]
    assert layers.short(["only.weight"]) == ["only"]
    assert layers.short(["weight"]) == ["weight"]
    assert layers.short(["a.w", "a.w.weight"]) == ["w", "w.weight"]
