"""What a run refuses, and what it lets change."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from small import Interrupted, Small, Watch, bits, find

from ltpl.callbacks import PruneAtEpoch, RewindToEpoch
from ltpl.rounds.plan import Plan, changed, numbers
from ltpl.rounds.tree import RunTree

ONE = {"max_epochs": 1}


def test_a_folder_with_something_else_in_it_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty and not a run: it has no run\.json"):
        find(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_becomes_a_run(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("an editor's")
    assert len(find(tmp_path, levels=0, trainer=ONE).results) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other/1"}', ""])
def test_a_record_of_somebody_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match="was not written by ltpl"):
        find(tmp_path)


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_there_has_to_be_a_run_where_one_is_expected(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ValueError, match=r"is not a run: (there is no such folder|it has no run)"):
        RunTree.existing(tmp_path / folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find(tmp_path_factory.mktemp("finished") / "run", levels=1, trainer=ONE).path


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prune": {"amount": 0.3}}, r"prune\.amounts: \[0\.5\] -> \[0\.3\]"),
        ({"prune": {"amount": 0.5, "scope": "layer"}}, r"prune\.scope: 'global' -> 'layer'"),
        ({"prune": {"amount": 0.5, "criterion": "random"}}, r"prune\.criterion\.name"),
        ({"rewind": {"epoch": 0, "policy": "finetune"}}, r"rewind\.policy: 'rewind' -> 'finetune'"),
        ({"rewind": {"at": "1it"}}, r"rewind\.step\.iteration: 0 -> 1"),
        ({"trainer": {"max_epochs": 2}}, r"trainer\.max_epochs: 1 -> 2"),
        ({"trainer": {**ONE, "gradient_clip_val": 1.0}}, r"gradient_clip_val: None -> 1\.0"),
        ({"test_at": "early_stop"}, "test_at: 'end' -> 'early_stop'"),
        ({"one_shot": True}, "one_shot: False -> True"),
        ({"order_seed": 3}, "order_seed: None -> 3"),
        ({"make_data": None}, "data: 'small.Data' -> None"),
    ],
)
def test_a_changed_option_is_named(finished: Path, options: dict[str, Any], named: str) -> None:
    before = bits(finished), (finished / "run.json").read_text()
    with pytest.raises(ValueError, match=named) as refused:
        find(finished, **{"levels": 1, "trainer": ONE, **options})
    assert "Give the old values, or another folder" in str(refused.value)
    assert (bits(finished), (finished / "run.json").read_text()) == before


def test_a_default_that_is_written_out_is_no_change(finished: Path) -> None:
    watch: list[str] = []
    options = {"prune": PruneAtEpoch(amount=[0.5]), "rewind": RewindToEpoch(epoch=0)}
    run = find(finished, levels=1, trainer=ONE, **options)
    assert len(run.results) == 2
    assert not watch


def test_a_changed_argument_of_a_partial_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    find(folder, None, functools.partial(Small, lr=0.1), levels=0, trainer=ONE)
    with pytest.raises(ValueError, match="lr"):
        find(folder, None, functools.partial(Small, lr=0.2), levels=0, trainer=ONE)


def test_nothing_trained_yet_options_may_change(tmp_path: Path) -> None:
    watch = Watch()
    watch.interrupt("seed_0/round_00", 0, 1)
    with pytest.raises(Interrupted):
        find(tmp_path / "run", watch)
    other = {"amount": 0.25}
    run = find(tmp_path / "run", watch, prune=other, rewind={"epoch": 1})
    fresh = find(tmp_path / "fresh", Watch(), prune=other, rewind={"epoch": 1})
    assert bits(run.path) == bits(fresh.path)
    assert json.loads((run.path / "run.json").read_text())["config"]["prune"]["amounts"] == [0.25]


def test_a_checkpoint_of_other_options_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltpl.rounds.checkpoint.SHARE", 1e9)
    watch = Watch()
    watch.interrupt("seed_0/round_00", 1, 1)
    with pytest.raises(Interrupted):
        find(tmp_path / "run", watch)
    with pytest.raises(ValueError, match=r"max_epochs: 3 -> 4"):
        find(tmp_path / "run", watch, trainer={"max_epochs": 4})


def test_more_levels_and_seeds_run_the_new_rounds_alone(tmp_path: Path) -> None:
    watch = Watch()
    options: dict[str, Any] = {"trainer": ONE}
    find(tmp_path / "run", watch, levels=1, **options)
    find(tmp_path / "run", watch, levels=2, **options)
    find(tmp_path / "run", watch, levels=1, seeds=[0, 3], **options)
    expected = [(0, 0), (0, 1), (0, 2), (3, 0), (3, 1)]
    assert watch.names == [f"seed_{seed}/round_{level:02}" for seed, level in expected]
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["levels"], record["seeds"]) == (2, [0, 3])
    at_once = find(tmp_path / "at_once", Watch(), levels=2, **options)
    first = bits(tmp_path / "run")
    assert all(first[name] == digest for name, digest in bits(at_once.path).items())


def test_what_no_result_depends_on_may_change(tmp_path: Path) -> None:
    watch = Watch()
    find(tmp_path / "run", watch, levels=0, trainer=ONE)
    options = {**ONE, "enable_progress_bar": False}
    find(tmp_path / "run", watch, levels=0, trainer=options, save_every_n_steps=2)
    assert len(watch.names) == 1


def test_densities_may_be_continued_but_not_changed(tmp_path: Path) -> None:
    watch = Watch()
    options: dict[str, Any] = {"levels": None, "trainer": ONE}
    find(tmp_path / "run", watch, densities=[0.6], **options)
    run = find(tmp_path / "run", watch, densities=[0.6, 0.3], **options)
    assert [r.kept for r in run.results] == [90, 54, 27]
    assert len(watch.names) == 3
    with pytest.raises(ValueError, match=r"densities: \[0\.6, 0\.3\] -> \[0\.5, 0\.3\]"):
        find(tmp_path / "run", watch, densities=[0.5, 0.3], **options)


def test_amounts_may_be_continued(tmp_path: Path) -> None:
    options: dict[str, Any] = {"levels": None, "trainer": ONE}
    find(tmp_path / "run", prune={"amount": [0.5, 0.2]}, **options)
    run = find(tmp_path / "run", prune={"amount": [0.5, 0.2, 0.5]}, **options)
    assert [r.kept for r in run.results] == [90, 45, 36, 18]


def test_amounts_are_continued_in_a_command_lines_options_too() -> None:
    old = {"prune": {"init_args": {"amount": [0.5, 0.2]}}}
    assert not changed(old, {"prune": {"init_args": {"amount": [0.5, 0.2, 0.1]}}})
    assert changed(old, {"prune": {"init_args": {"amount": [0.5, 0.3]}}}) == [
        "prune.init_args.amount: [0.5, 0.2] -> [0.5, 0.3]"
    ]


def test_two_processes_do_not_work_on_one_replicate(tmp_path: Path) -> None:
    run = find(tmp_path / "run", levels=0, trainer=ONE)
    with (
        run.tree.at_work([0]),
        pytest.raises(
            ValueError, match=r"Another process \(PID \d+ on .*\) is at work in .*seed_0"
        ),
    ):
        find(tmp_path / "run", levels=1, trainer=ONE)
    with run.tree.at_work([1]):
        find(tmp_path / "run", levels=1, trainer=ONE)


def test_a_replicate_is_free_again_after_an_error(tmp_path: Path) -> None:
    watch = Watch()
    watch.interrupt("seed_0/round_00", 0, 0)
    with pytest.raises(Interrupted):
        find(tmp_path / "run", watch, levels=0)
    assert find(tmp_path / "run", watch, levels=0).results


@pytest.mark.parametrize("at", ["3ep", "4ep", "3ep1it", "12it", "40it", "2ep4it"])
def test_there_is_no_rewinding_beyond_the_end_of_training(tmp_path: Path, at: str) -> None:
    with pytest.raises(ValueError, match=f"rewind goes back to {at}, but training end"):
        find(tmp_path / "run", rewind={"at": at})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "val_lost"}, "monitor.*did you mean 'val_loss'"),
        ({"levels": 3, "prune": {"amount": [0.5, 0.2]}}, r"levels=3, but prune\.amount gives 2"),
        ({"levels": 3, "densities": [0.5]}, r"levels=3, but densities=\[0\.5\] has 1"),
        ({"levels": -1}, "levels=-1: give 0 or more"),
        ({"densities": [0.5, 1.5]}, "each between 0 and 1"),
        ({"densities": [0.3, 0.5]}, "so they must fall"),
        ({"save_every_n_steps": 0}, "save_every_n_steps=0: give 1 or more"),
        ({"test_at": "early_stopp"}, "test_at.*did you mean 'early_stop'"),
        ({"prune": PruneAtEpoch(epochs=[1])}, r"prune\.epochs=\[1\]: rounds prune when a round"),
        ({"prune": RewindToEpoch()}, "prune=RewindToEpoch: PruneAtEpoch"),
        ({"rewind": PruneAtEpoch()}, "rewind=PruneAtEpoch: RewindToEpoch"),
        ({"make_model": dict}, "make_model returned a dict; a LightningModule is needed"),
    ],
)
def test_wrong_options_are_explained(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?i){message}"):
        find(tmp_path / "run", trainer=ONE, **options)


@pytest.mark.parametrize("seeds", ["3-1", "a", "1-", "1,,2", "-1", "1.5", ""])
def test_seeds_are_written_as_numbers_and_ranges(seeds: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"seeds={seeds!r}: write 3, 0-4 or 0,2,5.")):
        Plan(run="", seeds=seeds)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", [3]), ("0-4", [0, 1, 2, 3, 4]), ("5,0,2-3", [0, 2, 3, 5]), (7, [7]), ([4, 1], [1, 4])],
)
def test_numbers_and_ranges(text: Any, expected: list[int]) -> None:
    assert numbers(text, "seeds") == expected


def test_replicates_fall_back_on_seed_everything() -> None:
    plan = Plan(run="")
    assert plan.replicates(5) == [5]
    assert plan.replicates(True) == plan.replicates(None) == [0]
    assert Plan(run="", seeds="1-2").replicates(5) == [1, 2]


class Nameless(Small):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("quality", self.net(batch[0]).mean())


def test_how_to_prune_may_change_while_only_the_dense_network_is_trained(tmp_path: Path) -> None:
    dense = find(tmp_path / "run", levels=0, trainer=ONE)
    before = dense.results
    again = find(tmp_path / "run", levels=1, trainer=ONE, prune={"amount": 0.3})
    assert again.results[:1] == before
    assert again.results[1].density == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    "options",
    [
        {"prune": {"rates": {"outptu": 0.5}}},
        {"prune": {"amount": 0.5, "of": "all"}, "levels": 2},
        {"densities": [0.5, 0.5]},
        {"rewind": {"epoch": 5}},
    ],
)
def test_what_would_fail_later_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"outptu|would prune nothing|training ends after"):
        find(tmp_path / "run", **{"levels": None, "trainer": ONE, **options})
    assert not (tmp_path / "run").exists()


def test_a_function_that_was_rewritten_is_another(tmp_path: Path) -> None:
    find(tmp_path / "run", None, lambda: Small(lr=0.1), levels=0, trainer=ONE)
    with pytest.raises(ValueError, match="model"):
        find(tmp_path / "run", None, lambda: Small(lr=0.2), levels=0, trainer=ONE)


def test_a_validation_without_a_loss_has_no_early_stop(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="set monitor to one of quality"):
        run = find(tmp_path / "run", None, Nameless, trainer=ONE)
    assert run.results[0].early_stop_step is None
    run = find(tmp_path / "other", None, Nameless, trainer=ONE, monitor="quality")
    assert run.results[0].early_stop_step == 4
