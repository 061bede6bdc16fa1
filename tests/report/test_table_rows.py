from __future__ import annotations

import csv
import io
import json
import random
import statistics
from pathlib import Path

import pytest
import synthetic

from ltpl.report import Row, as_csv, as_markdown, as_text, read_runs, rows


@pytest.fixture
def rng() -> random.Random:
    return random.Random()


def table(folder: Path) -> list[Row]:
    return rows(read_runs([folder]))


def test_a_row_says_mean_and_deviation_over_seeds_in_per_cent(
    tmp_path: Path, rng: random.Random
) -> None:
    results = [synthetic.result(s, k, rng) for s in range(3) for k in range(3)]
    synthetic.save(synthetic.begin(tmp_path), results)
    found = table(tmp_path)
    assert [(row.round, row.seeds, row.branch) for row in found] == [
        (0, 3, None),
        (1, 3, None),
        (2, 3, None),
    ]
    for row in found:
        level = [r for r in results if r.round == row.round]
        dense = [r for r in results if r.round == 0]
        tests = [100 * r.test_acc for r in level]
        assert row.score.mean == pytest.approx(statistics.mean(tests))
        assert row.score.std == pytest.approx(statistics.stdev(tests))
        assert (row.score.low, row.score.high) == pytest.approx((min(tests), max(tests)))
        validations = [100 * r.val_acc for r in level]
        assert row.validation.mean == pytest.approx(statistics.mean(validations))
        starts = [100 * r.start["val/acc"] for r in level]
        assert row.start.mean == pytest.approx(statistics.mean(starts))
        steps = [r.early_stop_step for r in level]
        assert row.early_stop_step.mean == pytest.approx(statistics.mean(steps))
        assert row.seconds == pytest.approx(statistics.mean(r.seconds for r in level))
        kept, total = level[0].kept, sum(synthetic.SIZES.values())
        assert row.kept == kept
        assert row.density == pytest.approx(kept / total)
        share = (kept + synthetic.BIASES) / (total + synthetic.BIASES)
        assert row.density_all == pytest.approx(share)
        if row.round:
            pairs = [100 * (a.test_acc - b.test_acc) for a, b in zip(level, dense, strict=True)]
            assert row.difference.mean == pytest.approx(statistics.mean(pairs))
            assert row.difference.std == pytest.approx(statistics.stdev(pairs))
    assert found[0].difference is None


def test_differences_are_paired_by_seed(tmp_path: Path, rng: random.Random) -> None:
    accuracies = {(0, 0): 0.90, (1, 0): 0.80, (0, 1): 0.91, (1, 1): 0.82, (2, 1): 0.10}
    results = [synthetic.result(s, k, rng, test_acc=a) for (s, k), a in accuracies.items()]
    synthetic.save(synthetic.begin(tmp_path), results)
    difference = table(tmp_path)[1].difference
    assert difference.values == pytest.approx((1.0, 2.0))  # seed 2 has no dense network


def test_a_level_that_only_one_seed_reached_is_averaged_over_that_seed(
    tmp_path: Path, rng: random.Random
) -> None:
    results = [synthetic.result(s, k, rng) for s, k in [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2)]]
    synthetic.save(synthetic.begin(tmp_path), results)
    last = table(tmp_path)[-1]
    assert (last.round, last.seeds) == (2, 1)
    assert last.score.values == pytest.approx((100 * results[-1].test_acc,))
    assert last.score.std is None
    assert f"  {100 * results[-1].test_acc:.2f}  " in as_text([last])


def test_a_branch_is_compared_with_the_dense_network_of_the_main_line(
    tmp_path: Path, rng: random.Random
) -> None:
    synthetic.save(synthetic.begin(tmp_path), [synthetic.result(0, 0, rng, test_acc=0.9)])
    branch = synthetic.result(0, 3, rng, test_acc=0.85, branch="again")
    synthetic.save(tmp_path / "branches" / "again", [branch])
    (tmp_path / "branches" / "again" / "branch.json").write_text(json.dumps({"kind": "reinit"}))
    (tmp_path / "branches" / "planned").mkdir()
    dense, row = table(tmp_path)
    assert dense.branch is None
    assert (row.branch, row.line, row.round) == ("again", "again (reinit)", 3)
    assert row.difference.values == pytest.approx((-5.0,))


def test_accuracies_that_are_per_cent_already_stay(tmp_path: Path, rng: random.Random) -> None:
    given = [1.1, 0.9]  # of a thousand classes
    results = [synthetic.result(0, k, rng, test_acc=a) for k, a in enumerate(given)]
    synthetic.save(synthetic.begin(tmp_path), results)
    assert [row.score.mean for row in table(tmp_path)] == given


def test_without_accuracy_the_test_loss_is_compared(tmp_path: Path, rng: random.Random) -> None:
    results = [synthetic.result(0, k, rng, **synthetic.without_accuracy(rng)) for k in range(2)]
    synthetic.save(synthetic.begin(tmp_path), results)
    found = table(tmp_path)
    assert [row.score.mean for row in found] == [r.test["test/loss"] for r in results]
    assert [row.validation.mean for row in found] == [r.early_stop["val/loss"] for r in results]
    assert [row.start.mean for row in found] == [r.start["val/loss"] for r in results]
    header = as_text(found).splitlines()[0]
    assert "test loss" in header
    assert "%" not in header.partition("seeds")[2]


def test_without_test_validation_is_compared_and_called_so(
    tmp_path: Path, rng: random.Random
) -> None:
    results = [synthetic.result(0, k, rng, test={}, test_acc=None) for k in range(2)]
    synthetic.save(synthetic.begin(tmp_path), results)
    found = table(tmp_path)
    assert [row.score.mean for row in found] == pytest.approx([100 * r.val_acc for r in results])
    header = as_text(found).splitlines()[0]
    assert header.count("validation accuracy") == 1
    assert "test" not in header


def test_csv_has_plain_numbers(tmp_path: Path, rng: random.Random) -> None:
    folder = tmp_path / "a, b"
    results = [synthetic.result(s, k, rng, seconds=12345.6) for s in (0, 1) for k in (0, 1)]
    synthetic.save(synthetic.begin(folder), results)
    dense, ticket = csv.DictReader(io.StringIO(as_csv(table(folder))))
    assert dense["run"] == "a, b"
    assert dense["difference_to_dense"] == ""
    assert dense["weights_left"] == "10000"
    assert float(ticket["density_percent"]) == pytest.approx(80)
    assert float(ticket["seconds"]) == pytest.approx(12345.6)
    level = [100 * r.test_acc for r in results if r.round == 1]
    assert float(ticket["score"]) == pytest.approx(statistics.mean(level), rel=1e-6)
    assert float(ticket["score_std"]) == pytest.approx(statistics.stdev(level), rel=1e-5)


def test_markdown_has_thousands_and_escapes_names(tmp_path: Path, rng: random.Random) -> None:
    synthetic.save(synthetic.begin(tmp_path), [synthetic.result(0, 0, rng)])
    synthetic.save(tmp_path / "branches" / "a|b_c", [synthetic.result(0, 1, rng)])
    lines = as_markdown(table(tmp_path)).splitlines()
    assert "| 10,000 |" in lines[2]
    assert "| a\\|b\\_c |" in lines[3]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_text_is_aligned_and_names_files(tmp_path: Path, rng: random.Random) -> None:
    synthetic.save(synthetic.begin(tmp_path), [synthetic.result(0, k, rng) for k in range(12)])
    found = table(tmp_path)
    lines = as_text(found).splitlines()
    assert len({len(line) for line in lines}) == 1
    at = lines[0].index("round") + len("round")
    assert [int(line[:at].split()[-1]) for line in lines[1:]] == list(range(12))
    assert as_text(found, [tmp_path / "table.csv"]).splitlines()[-1] == str(tmp_path / "table.csv")


def test_columns_without_content_are_left_out(tmp_path: Path, rng: random.Random) -> None:
    bare = synthetic.result(0, 0, rng, start={}, early_stop_step=None, val_acc=None)
    synthetic.save(synthetic.begin(tmp_path), [bare])
    header = as_text(table(tmp_path)).splitlines()[0]
    assert "test accuracy" in header
    for absent in ("run", "early stop", "retraining", "validation", "against"):
        assert absent not in header


def test_small_densities_are_told_apart(tmp_path: Path, rng: random.Random) -> None:
    sizes = [synthetic.result(0, k, rng, kept=n, total=10**6, parameters=10**6)
             for k, n in enumerate((10**6, 130, 120))]  # fmt: skip
    synthetic.save(synthetic.begin(tmp_path), sizes)
    text = as_text(table(tmp_path))
    assert "0.0130" in text
    assert "0.0120" in text


def test_no_rows_are_no_error() -> None:
    assert as_text([]) == "No round is finished.\n"
