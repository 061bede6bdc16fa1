from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import synthetic

from ltpl.report import read_runs, rows
from ltpl.report.summary import sentence


def said(folder: Path, scores: dict[tuple[int, int], float], **given: Any) -> str:
    rng = random.Random()
    key = "test_acc"
    results = []
    for (seed, level), score in scores.items():
        values: dict[str, Any] = dict(given)
        if given.get("key"):
            values = {"test": {given["key"]: score}, "test_acc": None}
        else:
            values[key] = score
        results.append(synthetic.result(seed, level, rng, **values))
    synthetic.save(synthetic.begin(folder), results)
    (run,) = read_runs([folder])
    return sentence(run, rows([run]))


def test_it_names_the_sparsest_level_that_is_not_below_dense(tmp_path: Path) -> None:
    scores = {(0, 0): 0.976, (1, 0): 0.982, (0, 1): 0.983, (1, 1): 0.985}
    scores |= {(0, 2): 0.979, (1, 2): 0.979, (0, 3): 0.981, (1, 3): 0.976}
    assert said(tmp_path, scores) == (
        "Down to 64.0 % of the weights the winning ticket tests as well as the dense network "
        "(97.90 % ± 0.00 against 97.90 % ± 0.42, 2 seeds)."
    )


def test_it_admits_denser_levels_that_fall_below(tmp_path: Path) -> None:
    found = said(tmp_path, {(0, 0): 0.90, (0, 1): 0.89, (0, 2): 0.91, (0, 3): 0.80})
    assert found.startswith("Down to 64.0 %")
    assert found.endswith("1 seed); 1 of the 1 denser levels fall below it.")


def test_it_says_when_there_is_none(tmp_path: Path) -> None:
    found = said(tmp_path, {(0, 0): 0.95, (0, 1): 0.90, (0, 2): 0.93})
    assert found == (
        "At no level does the ticket test as well as the dense network; nearest, with 64.0 % of "
        "the weights, is 93.00 % against 95.00 %, 1 seed."
    )


def test_a_diverged_seed_is_no_success(tmp_path: Path) -> None:
    scores = {(0, 0): 0.9, (1, 0): 0.9, (0, 1): 0.99, (1, 1): float("nan"), (0, 2): 0.8}
    assert said(tmp_path, scores).startswith("At no level")


def test_less_loss_is_better(tmp_path: Path) -> None:
    scores = {(0, 0): 0.30, (0, 1): 0.25, (0, 2): 0.50}
    found = said(tmp_path, scores, key="test/loss")
    assert found.startswith("Down to 80.0 % of the weights")
    assert "(test loss 0.2500 against 0.3000, 1 seed)" in found


def test_more_of_another_metric_is_better(tmp_path: Path) -> None:
    scores = {(0, 0): 0.30, (0, 1): 0.25, (0, 2): 0.50}
    assert said(tmp_path, scores, key="test/f1").startswith("Down to 64.0 % of the weights")


def test_scores_are_compared_over_the_same_seeds(tmp_path: Path) -> None:
    scores = {(0, 0): 0.90, (1, 0): 0.98, (0, 1): 0.91}  # seed 1 is still dense
    assert "(91.00 % against 90.00 %, 1 seed)" in said(tmp_path, scores)


def test_only_dense(tmp_path: Path) -> None:
    assert said(tmp_path, {(0, 0): 0.9}) == (
        "Only the dense network is finished so far: test accuracy 90.00 %, 1 seed."
    )


def test_no_dense(tmp_path: Path) -> None:
    assert said(tmp_path, {(0, 1): 0.9}).startswith("The dense network (round 0) has no result")


def test_no_score(tmp_path: Path) -> None:
    rng = random.Random()
    nothing = {"test": {}, "early_stop": {}, "end": {}, "test_acc": None, "val_acc": None}
    synthetic.save(synthetic.begin(tmp_path), [synthetic.result(0, 0, rng, **nothing)])
    (run,) = read_runs([tmp_path])
    assert sentence(run, rows([run])) == "No test score was recorded."


@pytest.mark.parametrize(
    ("made_by", "word"),
    [
        ({"policy": "rewind", "rewind": "0ep"}, "the winning ticket"),
        ({"policy": "rewind", "rewind": "2ep"}, "the matching ticket"),
        ({"policy": "rewind", "rewind": "500it"}, "the matching ticket"),
        ({"policy": "rewind", "rewind": "0ep", "mask_1": "reinit"}, "the ticket"),
        ({"policy": "finetune", "rewind": "0ep"}, "the ticket"),
        ({"policy": "rewind"}, "the ticket"),
        ({}, "the ticket"),
    ],
)
def test_the_word_of_the_papers_depends_on_the_rewinding(
    tmp_path: Path, made_by: dict[str, str], word: str
) -> None:
    found = said(tmp_path, {(0, 0): 0.9, (0, 1): 0.91}, made_by=made_by)
    assert f" {word} tests" in found
