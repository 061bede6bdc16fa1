from __future__ import annotations

import random
from itertools import pairwise

import pytest
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ltpl.report.axes import cut_words, density_axis, step_axis, window
from ltpl.report.looks import STYLE
from ltpl.report.pictures import Sheet
from ltpl.report.spread import Spread
from ltpl.report.ticks import density_ticks, share_ticks

SHEETS = [Sheet(7.4, 4.2), Sheet(3.9, 3.9, narrow=True)]


@pytest.fixture
def rng() -> random.Random:
    return random.Random()


@pytest.mark.parametrize("sheet", SHEETS)
@pytest.mark.parametrize("trial", range(8))
def test_density_labels_never_overlap(sheet: Sheet, trial: int, rng: random.Random) -> None:
    keep = rng.uniform(0.3, 0.97)
    levels = [keep**k for k in range(rng.randrange(1, 40))]
    if trial % 2:
        levels += [rng.uniform(min(levels), 1) for _ in range(10)]
    with style.context(["default", STYLE]):
        figure = Figure((sheet.width, sheet.height), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_ylim(10_000, 12_000)
        axes.set_ylabel("something")
        density_axis(axes, levels, sheet.width)
        canvas.draw()
        boxes = sorted((t.get_window_extent() for t in axes.get_xticklabels()), key=lambda b: b.x0)
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    assert len(boxes) >= min(2, len({round(level, 1) for level in levels}))
    assert axes.get_xlim()[0] > axes.get_xlim()[1]
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("sheet", SHEETS)
@pytest.mark.parametrize("trial", range(8))
def test_steps_begin_at_0_and_their_labels_never_overlap(
    sheet: Sheet, trial: int, rng: random.Random
) -> None:
    steps = [round(10 ** rng.uniform(0, 5)) for _ in range(rng.randrange(1, 12))]
    with style.context(["default", STYLE]):
        figure = Figure((sheet.width, sheet.height), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        step_axis(axes, [0, *steps] if trial % 2 else steps, sheet.width)
        canvas.draw()
        labels = sorted(axes.get_xticklabels(), key=lambda t: t.get_window_extent().x0)
        boxes = [label.get_window_extent() for label in labels]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    assert [labels[0].get_text(), labels[-1].get_text()] == ["0", f"{max(steps):,}"]
    places = axes.transData.transform([(step, 0) for step in sorted({0, *steps})])[:, 0]
    assert all(a < b for a, b in pairwise(places))
    assert axes.bbox.x0 < places[0] < places[-1] < axes.bbox.x1


def test_every_second_label_is_better_than_gaps() -> None:
    ladder_of_lenet = [0.8**k for k in range(21)]
    ticks = density_ticks(ladder_of_lenet, 460)
    assert ticks[0] == 1
    rounds = [ladder_of_lenet.index(tick) for tick in ticks]
    assert len({b - a for a, b in pairwise(rounds)}) == 1


def test_one_density_is_an_axis_too() -> None:
    assert density_ticks([1.0, 1.0], 300) == [1.0]
    assert density_ticks([], 300) == []


@pytest.mark.parametrize("lowest", [0.9, 0.5, 0.2, 0.03, 0.0001])
def test_layers_have_round_ticks(lowest: float) -> None:
    ticks = share_ticks(lowest)
    assert 3 <= len(ticks) <= 12
    assert max(ticks) == 1
    assert min(ticks) >= 0.99 * lowest


def alone(*values: float) -> list[Spread]:
    """One seed a level."""
    return [Spread((value,)) for value in values]


def test_a_collapsed_level_does_not_squash_the_rest(rng: random.Random) -> None:
    near = [97.9 + rng.uniform(-0.5, 0.5) for _ in range(12)]
    low, high = window(alone(*near, 10.0), 97.9)
    assert low < min(near)
    assert high > max(near)
    assert high - low < 5 * (max(near) - min(near))


def test_a_steady_fall_is_shown_whole() -> None:
    values = [98 - 0.3 * k for k in range(20)]
    low, high = window(alone(*values), 98.0)
    assert low < min(values)
    assert high > 98


def test_what_would_squash_little_is_shown() -> None:
    assert window(alone(*[1.0] * 5, 15.0), 0.0)[1] > 15
    assert window(alone(*[1.0] * 5, 20.0), 0.0)[1] < 2


@pytest.mark.parametrize("trial", range(20))
def test_bands_are_shown_whole_where_two_seeds_differ_more_than_levels(
    trial: int, rng: random.Random
) -> None:
    seeds = [rng.uniform(-2, 2) for _ in range(2)]
    levels = [96 + rng.uniform(-0.3, 0.1) for _ in range(9)]
    spreads = [Spread(tuple(v + s + rng.uniform(-0.3, 0.3) for s in seeds)) for v in levels]
    limits = low, high = window(spreads, spreads[0].mean)
    assert low < min(s.low for s in spreads)
    assert high > max(s.high for s in spreads)
    assert cut_words(spreads, limits) == ""


def test_a_band_that_widens_as_the_mean_falls_is_shown_whole(rng: random.Random) -> None:
    for fall in (0.1, 1.0, 10.0):
        spreads = [Spread((96.0 - 2 * fall * k * k, 96.0)) for k in range(6)]
        assert window(spreads, 96.0)[0] < spreads[-1].low


def test_one_seed_that_collapses_does_not_squash_the_rest(rng: random.Random) -> None:
    spreads = [Spread(tuple(96 - k + rng.uniform(-0.3, 0.3) for _ in range(8))) for k in range(9)]
    spreads[4] = Spread((*spreads[4].values[:-1], 10.0))
    limits = window(spreads, 96.0)
    assert 50 < limits[0] < spreads[4].mean
    assert "are cut" in cut_words(spreads, limits)


def test_limits_are_finite_whatever_comes() -> None:
    for values in ([], [5.0], [5.0, 5.0], [float("nan"), 5.0], [float("inf"), 5.0], [0.0]):
        for centre in (5.0, float("nan")):
            for spreads in (alone(*values), [Spread(tuple(values))] if values else []):
                low, high = window(spreads, centre)
                assert -1e9 < low < high < 1e9
