"""The figures of robustness and of compacted networks, and the CSV files of rounds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import synthetic

from ltpl.report import compacted, read_runs, robustness
from ltpl.report.axes import legend_columns
from ltpl.report.cells import as_number, whole_rows
from ltpl.tickets.result import round_folder


def attacked(folder: Path, seeds: int, levels: int) -> dict[tuple[int, int, str, float], float]:
    rng = random.Random()
    each = [(s, k) for s in range(seeds) for k in range(levels)]
    synthetic.save(synthetic.begin(folder), [synthetic.result(s, k, rng) for s, k in each])
    found = {}
    for seed, level in each:
        lines = ["attack,eps,accuracy"]
        for attack in ("fgsm", "pgd"):
            for eps in (0.3, 0.0, 0.1):
                found[seed, level, attack, eps] = rng.random()
                lines.append(f"{attack},{eps},{found[seed, level, attack, eps]}")
        file = round_folder(folder, seed, level) / "robustness.csv"
        file.write_text("\n".join(lines) + "\n")
    return found


def test_accuracy_is_drawn_against_the_strength_of_each_attack(
    tmp_path: Path, captured: Any
) -> None:
    found = attacked(tmp_path, seeds=2, levels=3)
    figure, caption = captured(lambda: robustness.robustness(read_runs([tmp_path]), [0, 2]))
    assert [axes.get_title() for axes in figure.axes] == ["fgsm", "pgd"]
    for axes in figure.axes:
        for line, level in zip(axes.lines, (0, 2), strict=True):
            attack = axes.get_title()
            means = [
                50 * (found[0, level, attack, e] + found[1, level, attack, e])
                for e in (0.0, 0.1, 0.3)
            ]
            assert list(line.get_xdata()) == [0.0, 0.1, 0.3]
            assert list(line.get_ydata()) == pytest.approx(means)
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["dense", "round 2 (64.0 %)"]
    assert "mean over n = 2 seeds" in caption


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("attack,eps,accuracy\nfgsm,0,0.9\nfgsm,0.1,0.5\nfgsm,0.2,0.", 2),
        ("attack,eps,accuracy\nfgsm,0,nan\nfgsm,-1,0.5\nfgsm,x,0.5\nfgsm,1e300,0.5\n", 0),
        ("attack,eps\nfgsm,0\n", 0),
        ("", 0),
    ],
)
def test_only_whole_lines_of_attacks_count(tmp_path: Path, text: str, expected: int) -> None:
    file = tmp_path / "robustness.csv"
    file.write_text(text)
    assert len(robustness.read(file)) == expected


def test_without_attacks_there_is_no_figure(tmp_path: Path) -> None:
    assert robustness.robustness(read_runs([synthetic.run(tmp_path)])) is None


def small(folder: Path, **content: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(content))


def test_bars_are_shares_of_the_dense_network(tmp_path: Path, captured: Any) -> None:
    run = synthetic.run(tmp_path / "run")
    small(run / "small" / "a", parameters=[2000, 500], macs=[8_000_000, 2_000_000])
    small(run / "small" / "b", parameters=[2000, 1000], bytes=[8000, 4000], error=[1e-7, 0])
    figure, _ = captured(lambda: compacted.compacted(read_runs([run])))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        *("parameters, % of dense", "multiply-adds, % of dense", "size, % of dense")
    ]
    parameters, macs, size = figure.axes
    assert [bar.get_width() for bar in parameters.patches] == [100, 25, 100, 50]
    assert [t.get_text() for t in parameters.get_yticklabels()] == ["small/a", "small/b"]
    assert [t.get_text() for t in macs.texts] == ["2M of 8M"]
    assert [t.get_text() for t in size.texts] == ["4 kB of 8 kB"]


def test_numbers_stand_beside_a_bar_however_slow_the_small_network_is(
    tmp_path: Path, captured: Any
) -> None:
    run = synthetic.run(tmp_path / "run")
    small(run / "small" / "a", latency=[0.004, 0.005])
    small(run / "small" / "b", latency=[0.004, 0.04])
    figure, caption = captured(lambda: compacted.compacted(read_runs([run])))
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.texts] == ["5 ms of 4 ms", "40 ms of 4 ms"]
    assert [bar.get_width() for bar in axes.patches] == [100, 125, 100, 130]
    for text, bar in zip(axes.texts, axes.patches[1::2], strict=True):
        assert text.get_window_extent().x0 > bar.get_window_extent().x1
    assert "beyond 130 % are cut" in caption


def test_of_many_networks_some_are_drawn(tmp_path: Path, captured: Any) -> None:
    run = synthetic.run(tmp_path / "run")
    for number in range(10, 20):
        small(run / str(number), parameters=[100, number])
    figure, caption = captured(lambda: compacted.compacted(read_runs([run])))
    assert len(figure.axes[0].texts) == 8
    assert "8 of 10 networks are drawn" in caption


@pytest.mark.parametrize(
    "content", [[], {"parameters": 3}, {"parameters": [0, 1]}, {"macs": ["a", "b"]}, {"other": 1}]
)
def test_a_report_that_says_no_counts_is_left_out(tmp_path: Path, content: Any) -> None:
    run = synthetic.run(tmp_path / "run")
    (run / "report.json").write_text(json.dumps(content))
    (run / "seed_0" / "report.json").write_text("{")
    assert compacted.compacted(read_runs([run])) is None


def test_rows_are_read_as_far_as_they_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("a,b\n1,2\n3\n4,5\n6,")
    header, rows = whole_rows(file)
    assert header == ["a", "b"]
    assert list(rows) == [["1", "2"], ["4", "5"]]
    assert whole_rows(tmp_path / "missing.csv")[0] == []
    assert [as_number(cell) for cell in ("1e3", "inf", "-0.5", "")] == [1000, None, -0.5, None]


def test_a_legend_takes_the_columns_that_have_room() -> None:
    short = [f"line {k}" for k in range(9)]
    assert legend_columns(short, 100) == 1
    assert legend_columns(short, 10_000) == 9
    assert legend_columns([], 100) == 1
    one_long = ["finetune_ladder (ladder)", *short]
    assert legend_columns(one_long, 500) > legend_columns([one_long[0]] * 10, 500)
