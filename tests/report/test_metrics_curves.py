from __future__ import annotations

import random
import statistics
from pathlib import Path

import pytest
import synthetic

from ltpl.report import read_runs
from ltpl.report.curves import MOST_POINTS, curve, read, spread_over, validation_tag
from ltpl.tickets.result import round_folder


@pytest.fixture
def rng() -> random.Random:
    return random.Random()


def test_a_curve_is_the_mean_over_the_seeds_that_measured(
    tmp_path: Path, rng: random.Random
) -> None:
    results = [synthetic.result(s, 2, rng) for s in (0, 1)]
    synthetic.save(synthetic.begin(tmp_path), results)
    written = [
        synthetic.metrics(tmp_path, each, rng, steps)
        for each, steps in zip(results, [(0, 10, 20), (0, 10)], strict=True)
    ]
    (run,) = read_runs([tmp_path])
    for kind, scale in (("loss", 1), ("acc", 100)):
        found = curve(run.main, 2, kind)
        assert found is not None
        assert found.steps == [0, 10, 20]
        assert found.percent == (kind == "acc")
        values = [w[f"val/{kind}"] for w in written]
        for step, spread in zip(found.steps[:2], found.spreads[:2], strict=True):
            both = [scale * v[step] for v in values]
            assert spread.mean == pytest.approx(statistics.mean(both))
            assert (spread.low, spread.high) == pytest.approx((min(both), max(both)))
        assert found.spreads[2].values == pytest.approx((scale * values[0][20],))


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    whole = "step,epoch,val/loss,val/acc\n0,0,0.5,0.25\n10,0,0.25,0.75\n"
    path.write_text(whole + "20,1,0.125,0.9375\n")
    tag, every = read(path, "acc")
    assert (tag, every) == ("val/acc", {0: 0.25, 10: 0.75, 20: 0.9375})
    for end in range(len("20,1,0.125,0.9375")):
        path.write_text(whole + "20,1,0.125,0.9375"[: end + 1])
        assert read(path, "acc") == ("val/acc", {0: 0.25, 10: 0.75})


@pytest.mark.parametrize("text", ["", "step", "step,epoch\n", "\n\n", "epoch,val/acc\n1,0.5\n"])
def test_a_file_without_the_measure_is_no_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    assert read(tmp_path / "metrics.csv", "acc") == ("", {})


def test_what_is_not_a_finite_number_is_left_out(tmp_path: Path) -> None:
    rows = "0,0,nan\nx,0,1\n1,0,word\n2,0\n3,0,inf\n4,0,\n5,0,0.5\n"
    (tmp_path / "metrics.csv").write_text("step,epoch,val/loss\n" + rows)
    assert read(tmp_path / "metrics.csv", "loss") == ("val/loss", {5: 0.5})


def test_a_missing_file_leaves_the_other_seeds(tmp_path: Path, rng: random.Random) -> None:
    results = [synthetic.result(s, 0, rng) for s in (0, 1)]
    synthetic.save(synthetic.begin(tmp_path), results)
    synthetic.metrics(tmp_path, results[1], rng, (0, 10))
    (run,) = read_runs([tmp_path])
    found = curve(run.main, 0, "acc")
    assert found is not None
    assert [s.n for s in found.spreads] == [1, 1]
    (round_folder(tmp_path, 1, 0) / "metrics.csv").unlink()
    assert curve(run.main, 0, "acc") is None


def test_a_long_curve_is_thinned_and_keeps_its_ends(tmp_path: Path, rng: random.Random) -> None:
    each = synthetic.result(0, 0, rng)
    synthetic.save(synthetic.begin(tmp_path), [each])
    last = 10 * (3 * MOST_POINTS + 1)
    synthetic.metrics(tmp_path, each, rng, range(0, last + 1, 10))
    (run,) = read_runs([tmp_path])
    found = curve(run.main, 0, "loss")
    assert found is not None
    assert (found.steps[0], found.steps[-1]) == (0, last)
    assert MOST_POINTS / 2 < len(found.steps) <= MOST_POINTS + 1


def test_other_names_of_the_validation_measures_are_found() -> None:
    tags = ["step", "train_acc", "val_accuracy", "val_loss_epoch", "val_loss"]
    assert validation_tag(tags, "acc") == "val_accuracy"
    assert validation_tag(tags, "loss") == "val_loss"
    assert validation_tag(["step", "train/acc"], "acc") is None


def test_default_rounds_hold_the_first_and_the_last() -> None:
    for count in range(1, 40):
        found = spread_over(range(count), 5)
        assert found == sorted(set(found))
        assert (found[0], found[-1]) == (0, count - 1)
        assert len(found) == min(5, count)
