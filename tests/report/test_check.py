from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import left
import pytest
import synthetic

from ltpl.report import Verdict, check
from ltpl.report.check import decide
from ltpl.report.expect import Expectation
from ltpl.tickets.result import round_folder

AROUND = {"value": 1, "tolerance": 0.5}


def claim(**options: Any) -> dict[str, Any]:
    options = {"claim": "It holds.", "of": "ticket@1", **options}
    bounded = options.keys() & {"value", "at_least", "at_most"}
    return options if bounded else {**options, "at_least": -1e9}


def decided(values: list[float], **options: Any) -> str:
    return decide(Expectation(**claim(**options)), values)[0]


@pytest.mark.parametrize(
    ("values", "options", "word"),
    [
        ([1.4, 1.6], AROUND, "agree"),  # the mean is on the edge
        ([1.2], AROUND, "agree"),
        ([-5, 7], AROUND, "agree"),
        ([2.0, 2.1, 2.05], AROUND, "differ"),
        ([0.3, 0.31, 0.29], AROUND, "differ"),
        ([1.2, 2.4, 1.3], AROUND, "not yet"),  # the mean is outside, part of the interval inside
        ([3.0], AROUND, "not yet"),
        ([2.0, 2.0], AROUND, "differ"),  # no spread at all
        ([1.0, 1.0], AROUND, "agree"),
        ([0.1 + 0.2] * 2, {"value": 0.3, "tolerance": 0}, "agree"),
        ([1.0, 1.1, 1.2], {"at_least": 0}, "agree"),
        ([-1.0, -1.1, -1.2], {"at_least": 0}, "differ"),
        ([1.0, -0.5, 1.2], {"at_least": 0}, "not yet"),
        ([5.0], {"at_least": 0}, "not yet"),
        ([0.0, 0.0], {"at_least": 0}, "agree"),
        ([1.0, 1.1, 1.2], {"at_most": 0}, "differ"),
        ([-1.0, -1.1, -1.2], {"at_most": 0}, "agree"),
        ([0.5, 0.6, 0.5], {"at_least": 0, "at_most": 1}, "agree"),
        ([2.5, 2.6, 2.5], {"at_least": 0, "at_most": 1}, "differ"),
        ([0.9, 1.0, 1.1], {"at_least": 0, "at_most": 1}, "not yet"),
        ([1.0, 1.0], {**AROUND, "seeds": 3}, "not yet"),
        ([1.0, 1.0, 1.0], {**AROUND, "seeds": 3}, "agree"),
        ([1.0, math.nan], AROUND, "not yet"),
        ([math.inf, math.inf], {"at_least": 0}, "not yet"),
        ([], AROUND, "not yet"),
    ],
    ids=str,
)
def test_a_claim_is_decided_by_the_mean_and_its_interval(
    values: list[float], options: dict[str, Any], word: str
) -> None:
    assert decided(values, **options) == word


def test_what_agrees_or_differs_says_no_reason_and_what_is_open_does() -> None:
    rng = random.Random()
    for _ in range(300):
        values = [rng.gauss(rng.uniform(-1, 2), 0.3) for _ in range(rng.randint(0, 4))]
        options = rng.choice([AROUND, {"at_least": 0}, {"at_most": 0, "at_least": -1}])
        word, reason = decide(Expectation(**claim(**options, seeds=rng.randint(1, 3))), values)
        assert (word == "not yet") == bool(reason)


def test_more_seeds_of_the_same_kind_never_turn_agree_into_differ() -> None:
    rng = random.Random()
    for _ in range(200):
        values = [rng.gauss(0.3, 0.5) for _ in range(5)]
        if decided(values, at_least=0) == "agree":
            assert decided(values * 2, at_least=0) == "agree"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three seeds, of which seed 2 has not come far; `reinit` with two of them."""
    accuracies = {(0, 0): 0.9, (1, 0): 0.8, (2, 0): 0.7, (0, 1): 0.92, (1, 1): 0.81}
    rng = random.Random(0)
    steps = {(0, 0): 200, (1, 0): 100, (2, 0): 100, (0, 1): 100, (1, 1): 75}
    folder = synthetic.begin(tmp_path / "lenet", config={})
    main = [
        synthetic.result(*key, rng, test_acc=value, early_stop_step=steps[key])
        for key, value in accuracies.items()
    ]
    synthetic.save(folder, main)
    branch = [synthetic.result(s, 1, rng, test_acc=0.5 + s / 10, branch="reinit") for s in (1, 2)]
    synthetic.save(folder / "branches" / "reinit", branch)
    return folder


def only(run: Path, **options: Any) -> Verdict:
    (verdict,) = check(run, [claim(**options)])
    return verdict


def measured(run: Path, **options: Any) -> list[float]:
    spread = only(run, **options).measured
    assert spread is not None
    return list(spread.values)


def test_accuracies_and_densities_are_in_per_cent(run: Path) -> None:
    assert measured(run, of="dense") == pytest.approx([90, 80, 70])
    assert measured(run, of="ticket@1", measure="density") == pytest.approx([80, 80])
    assert measured(run, of="ticket@1", measure="density_all") == pytest.approx([8300 / 103] * 2)
    assert measured(run, of="ticket@1", measure="weights_left") == [8000, 8000]
    assert measured(run, of="ticket@1", measure="early_stop_step") == [100, 75]


def test_instability_is_that_of_the_path_to_the_other_training(run: Path) -> None:
    reorder = run / "branches" / "reorder"
    synthetic.save(reorder, [synthetic.result(s, 0, random.Random(s)) for s in (0, 1, 2)])
    for seed, height in enumerate((0.0, 0.05)):
        left.path_csv(round_folder(reorder, seed, 0), left.bump(height), raw=False)
    assert measured(run, of="reorder@0", measure="instability") == pytest.approx([0.5, 5.0])
    raw = only(run, of="reorder@0", measure="raw_instability")
    assert (raw.word, raw.measured) == ("not yet", None)
    assert only(run, of="reinit@1", measure="instability").word == "not yet"


def test_accuracies_that_are_per_cent_already_stay(tmp_path: Path) -> None:
    rng = random.Random()
    results = [synthetic.result(s, 0, rng, test_acc=acc) for s, acc in ((0, 0.9), (1, 90.0))]
    synthetic.save(synthetic.begin(tmp_path), results)
    assert measured(tmp_path, of="dense") == [0.9, 90.0]


def test_differences_and_ratios_are_taken_seed_by_seed(run: Path) -> None:
    assert measured(run, minus="dense") == pytest.approx([2, 1])
    assert measured(run, of="reinit@1", minus="dense") == pytest.approx([-20, 0])
    assert measured(run, of="reinit@1", minus="ticket@1") == pytest.approx([-21])
    ratios = measured(run, of="dense", over="ticket@1", measure="early_stop_step")
    assert ratios == pytest.approx([2, 4 / 3])


def test_a_ratio_to_nothing_is_not_decided(run: Path) -> None:
    rng = random.Random()
    synthetic.save(run, [synthetic.result(s, 2, rng, early_stop_step=0) for s in (0, 1)])
    verdict = only(run, over="ticket@2", measure="early_stop_step")
    assert (verdict.word, verdict.reason) == ("not yet", "not a finite number in every seed")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"seeds": 3}, "2 of 3 seeds"),
        ({"of": "ticket@7"}, "lenet has no round 7: ltpl rounds ... --run {run} --levels 7"),
        ({"of": "reinit@7"}, "lenet has no round 7: ltpl rounds ... --run {run} --levels 7"),
        (
            {"of": "late@1"},
            "branch late has no round 1: ltpl branch {run} --name late --levels 1",
        ),
        ({"of": "other:dense"}, "there is no run other beside {run}: give its folder too"),
        ({"measure": "pruned_acc"}, "pruned_acc of ticket@1 was not measured"),
    ],
    ids=str,
)
def test_what_is_not_there_yet_is_said_with_the_command_that_makes_it(
    options: dict[str, Any], reason: str, run: Path
) -> None:
    verdict = only(run, **options)
    assert (verdict.word, verdict.reason) == ("not yet", reason.format(run=run))


def test_seeds_that_do_not_meet_are_no_pairs(run: Path) -> None:
    synthetic.save(run / "branches" / "b", [synthetic.result(7, 1, random.Random())])
    assert only(run, minus="b@1").reason == "ticket@1 and b@1 have no seed in common"


def test_the_kind_of_a_branch_is_in_its_command(run: Path) -> None:
    (run / "branches" / "reinit" / "branch.json").write_text('{"kind": "retrain"}')
    synthetic.save(run, [synthetic.result(0, 2, random.Random())])
    assert only(run, of="reinit@2").reason.endswith("--name reinit --kind retrain --levels 2")


PLANNED = {
    "deep": "--kind ladder --one_shot true --levels 7,9 --prune.criterion 'my criterion'",
    "tuned": "--levels=1 --kind finetune",
    "lr_rewind": None,
    "broken": "--kind 'finetune",
    "again": "--kind reinit --of deep",
}


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        (
            "deep@9",
            "branch deep has no round 9: ltpl branch {run} --name deep --kind ladder --one_shot "
            "true --prune.criterion 'my criterion' --levels 9",
        ),
        (
            "tuned@1",
            "branch tuned has no round 1: ltpl branch {run} --name tuned --kind finetune --levels "
            "1",
        ),
        ("tuned@9", "lenet has no round 9: ltpl rounds ... --run {run} --levels 9"),
        (
            "again@9",
            "branch again has no round 9: ltpl branch {run} --name again --kind reinit --of ",
        ),
        ("lr_rewind@1", "branch lr_rewind has no round 1: ltpl branch {run} --name lr_rewind "),
        ("broken@1", "branch broken has no round 1: ltpl branch {run} --name broken --levels 1"),
        ("renit@1", "branch renit has no round 1 (did you mean reinit@1?): ltpl branch {run} "),
        ("tunes@1", "branch tunes has no round 1 (did you mean tuned@1?): ltpl branch {run} "),
    ],
)
def test_the_command_of_a_branch_has_the_options_that_the_config_gives_it(
    of: str, reason: str, run: Path
) -> None:
    synthetic.begin(run, config={"branches": PLANNED})
    assert only(run, of=of).reason.startswith(reason.format(run=run))


def test_a_run_may_be_compared_with_one_beside_it_or_with_one_that_is_given(
    run: Path, tmp_path: Path
) -> None:
    rng = random.Random()
    beside = synthetic.begin(tmp_path / "beside")
    synthetic.save(beside, [synthetic.result(s, 1, rng, test_acc=0.6) for s in (0, 1)])
    elsewhere = synthetic.begin(tmp_path / "elsewhere" / "far")
    synthetic.save(elsewhere, [synthetic.result(s, 1, rng, test_acc=0.7) for s in (0, 1)])
    assert measured(run, minus="beside:ticket@1") == pytest.approx([32, 21])
    verdicts = check([run, elsewhere], [claim(minus="far:ticket@1")])
    assert [each.run for each in verdicts] == ["lenet"]  # the other is there to be named
    assert verdicts[0].measured is not None
    assert verdicts[0].measured.values == pytest.approx((22, 11))


def test_a_neighbour_that_is_no_run_is_said(run: Path, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    verdict = only(run, of="beside:ticket@1")
    assert verdict.word == "not yet"
    assert "beside" in verdict.reason


def test_each_run_is_asked_what_its_own_config_expects(run: Path, tmp_path: Path) -> None:
    config = {"expect": [claim(claim="first"), claim(claim="second", of="reinit@1")]}
    synthetic.begin(run, config=config)
    other = synthetic.run(tmp_path / "other")
    found = [(each.run, each.expected.claim) for each in check([run, other])]
    assert found == [("lenet", "first"), ("lenet", "second")]


def test_every_run_is_asked_what_a_config_expects(run: Path, tmp_path: Path) -> None:
    other = synthetic.run(tmp_path / "other")
    (config := tmp_path / "config.yaml").write_text(f"expect: [{claim()}]")
    assert [each.run for each in check([run, other], config)] == ["lenet", "other"]


@pytest.mark.parametrize("record", [{}, {"config": None}, {"config": [1]}, {"config": {}}])
def test_a_run_that_expects_nothing_is_told_how_to_expect(
    record: dict[str, Any], run: Path
) -> None:
    synthetic.begin(run, **record)
    with pytest.raises(ValueError, match=r"nothing is expected. Give .* `--config FILE`"):
        check(run)


def test_a_wrong_record_is_named(run: Path) -> None:
    synthetic.begin(run, config={"expect": [claim(seeds=0)]})
    with pytest.raises(ValueError, match=r"lenet: expect, entry 1: seeds=0"):
        check(run)
