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
        "At 64.0 % of the weights the ticket tests 0.00 pp from dense (95 % interval -3.81 to "
        "+3.81, n = 2): not decided; that is the sparsest level not below dense in the mean. "
        "Over all 3 levels: decided at no level."
    )


def test_a_winning_ticket_is_one_whose_interval_says_so(tmp_path: Path) -> None:
    scores = {(seed, 0): 0.90 + 0.01 * seed for seed in range(3)}
    above = {(seed, 1): score + gain for ((seed, _), score), gain in zip(
        scores.items(), (0.020, 0.021, 0.022), strict=True)}  # fmt: skip
    assert said(tmp_path, scores | above) == (
        "At 80.0 % of the weights the winning ticket tests 2.10 pp above dense "
        "(95 % interval +1.85 to +2.35, n = 3): decided."
    )


def test_it_admits_denser_levels_that_fall_below(tmp_path: Path) -> None:
    found = said(tmp_path, {(0, 0): 0.90, (0, 1): 0.89, (0, 2): 0.91, (0, 3): 0.80})
    assert found.startswith("At 64.0 % of the weights the ticket tests 1.00 pp above dense (n = 1)")
    assert "though 1 of the 1 denser ones is. " in found


def test_it_says_when_there_is_none(tmp_path: Path) -> None:
    found = said(tmp_path, {(0, 0): 0.95, (0, 1): 0.90, (0, 2): 0.93})
    assert found == (
        "At 64.0 % of the weights the ticket tests 2.00 pp below dense (n = 1): one seed decides "
        "nothing; no level is as good as dense in the mean, this one is nearest. "
        "Over all 2 levels: one seed decides nothing."
    )


def test_a_diverged_seed_is_no_success(tmp_path: Path) -> None:
    scores = {(0, 0): 0.9, (1, 0): 0.9, (0, 1): 0.99, (1, 1): float("nan"), (0, 2): 0.8}
    assert "no level is as good as dense" in said(tmp_path, scores)


def test_less_loss_is_better(tmp_path: Path) -> None:
    scores = {(0, 0): 0.30, (0, 1): 0.25, (0, 2): 0.50}
    found = said(tmp_path, scores, key="test/loss")
    assert found.startswith(
        "At 80.0 % of the weights the ticket has a test loss 0.0500 below dense (n = 1)"
    )
    assert "the sparsest level not above dense" in found


def test_more_of_another_metric_is_better(tmp_path: Path) -> None:
    scores = {(0, 0): 0.30, (0, 1): 0.25, (0, 2): 0.50}
    assert said(tmp_path, scores, key="test/f1").startswith("At 64.0 % of the weights")


def test_scores_are_compared_over_the_same_seeds(tmp_path: Path) -> None:
    scores = {(0, 0): 0.90, (1, 0): 0.98, (0, 1): 0.91}  # seed 1 is still dense
    assert "1.00 pp above dense (n = 1)" in said(tmp_path, scores)


def test_only_dense(tmp_path: Path) -> None:
    assert said(tmp_path, {(0, 0): 0.9}) == (
        "Only the dense network is finished so far: test accuracy 90.00 %, n = 1."
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
    scores = {(0, 0): 0.90, (1, 0): 0.91, (0, 1): 0.92, (1, 1): 0.9301}
    found = said(tmp_path, scores, made_by=made_by)
    assert f" {word} tests 2.01 pp above dense" in found
    undecided = said(tmp_path, {(0, 1): 0.91, (1, 1): 0.93}, made_by=made_by)
    assert undecided.startswith("At 80.0 % of the weights the ticket tests 1.50 pp above dense")
