"""Branches that a config names: checked before anything is trained, run after the main line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

from ltpl.cli import main
from ltpl.following import commands
from ltpl.rounds.plan import Plan
from ltpl.tickets.result import branches, results

pytestmark = pytest.mark.filterwarnings(
    # Lightning 2.6 calls what jsonargparse 4.53 deprecates
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"
)

BRANCHES = {
    "reinit": "--levels 1",
    "tuned": "--kind ladder --rewind.policy finetune",
    "tuned_again": "--kind reorder --of tuned --levels 1 --points 2",
}
CONFIG: dict[str, Any] = {
    "levels": 1,
    "seeds": "0,2",
    "branches": BRANCHES,
    "model": {
        "class_path": "ImageClassifier",
        "init_args": {
            "network": {
                "class_path": "ltpl.models.MLP",
                "init_args": {"inputs": 64, "hidden": [8], "outputs": 10},
            }
        },
    },
    "data": {"class_path": "Digits", "init_args": {"batch_size": 400}},
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1},
}


SUPERMASK = {**CONFIG["trainer"], "callbacks": [{"class_path": "ltpl.callbacks.Supermask"}]}


class Spoiling(pl.Callback):
    """Let trainings go astray.

    Args:
        rounds: A part of the folders of their rounds.
    """

    def __init__(self, rounds: str) -> None:
        self.rounds = rounds

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.rounds in str(trainer.default_root_dir):
            with torch.no_grad():
                next(pl_module.parameters()).fill_(float("nan"))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ltpl"])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return path


def test_one_command_runs_the_branches_too(config: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["rounds", "--config", str(config), "--run", "run"]
    main([*command, "--report=false", "--only", "[tuned,tuned_again]"])
    (again,) = Path("run/branches/tuned_again/seed_2").glob("round_*")
    (again / "result.json").unlink()
    main([*command, "--report=false", "--only", "tuned_again"])  # what it is of is there
    assert [path.name for path in branches("run")] == ["tuned", "tuned_again"]
    main(command)
    for name in BRANCHES:
        found = results(f"run/branches/{name}")
        assert [(r.seed, r.round) for r in found] == [(0, 1), (2, 1)]
    record = json.loads(Path("run/branches/tuned/branch.json").read_text())
    assert record["config"]["rewind"]["init_args"]["policy"] == "finetune"
    assert "reinit" in Path("run/report/index.html").read_text()
    capsys.readouterr()
    main(command)  # everything is finished: nothing is trained again
    said = capsys.readouterr().out
    assert said.count("0 are left") == 4
    assert "seed 0 round 1/1" not in said


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"branches": {"x": "--kind raint"}}, "branches.x: kind='raint' is not known"),
        ({"branches": {"x": "--levls 1"}}, "did you mean '--levels'"),
        ({"branches": {"x": "--rewind.policy rewnd"}}, "did you mean 'rewind'"),
        ({"branches": {"x": "--kind 'reinit"}}, 'branches.x="--kind \'reinit": No closing'),
        ({"branches": {"x": "--kind reorder --of y"}}, "of='y' is not known"),
        ({"branches": {"again": "--of tuned", **BRANCHES}}, "again: of='tuned': branches run in"),
        ({"branches": {"x/y": "--kind reinit"}}, "name='x/y'"),
        ({"branches": {"x": "--kind reinit --levels 1-2"}}, "x: what it starts from will not have"),
        ({"branches": {"x": "--kind reinit --seeds 0,1"}}, "not have seed 1 round 1: choose other"),
        ({"levels": 0, "branches": {"reinit": None}}, "will not have any round: choose other"),
        (
            {"branches": {"x": "--kind ladder --levels 0"}},
            "a branch of kind 'ladder' has no round 0",
        ),
        ({"branches": {"x": "--prune Trajectory"}}, "branches.x: prune=Trajectory: rounds need a"),
        (
            {"only": "tuned_again"},
            "branches.tuned_again: of='tuned': tuned is not in run yet, and only='tuned_again' "
            "leaves it out. Give --only '[tuned,tuned_again]'.",
        ),
        ({"trainer": SUPERMASK, "branches": None}, "levels=1 with Supermask: it trains no weights"),
        (
            {"trainer": SUPERMASK, "levels": 0, "branches": {"x": "--kind ladder --levels 2"}},
            "branches.x: levels=2 with Supermask: it trains no weights",
        ),
        ({"only": "tund*"}, "only='tund*' is not known"),
        ({"only": "tuned", "branches": None}, "only='tuned' is not known"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    config: Path, given: dict[str, Any], told: str, capsys: pytest.CaptureFixture
) -> None:
    config.write_text(yaml.safe_dump({**CONFIG, **given}))
    with pytest.raises(SystemExit) as stopped:
        main(["rounds", "--config", str(config), "--run", "run"])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert told in lines[0]
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("where", "missing", "finished"),
    [
        (
            "run/seed_1/round_00",
            "seed 1 rounds 0-1; reinit: seed 1 round 1; tuned: seed 1 round 1; tuned_again: seed 1 "
            "round 1.",
            {"reinit": [0], "tuned": [0], "tuned_again": [0]},
        ),
        (
            "tuned/seed_1",
            "tuned: seed 1 round 1; tuned_again: seed 1 round 1.",
            {"reinit": [0, 1], "tuned": [0], "tuned_again": [0]},
        ),
        (
            "run/seed",
            "seed 0 rounds 0-1, seed 1 rounds 0-1; reinit: seed 0 round 1, seed 1 round 1; tuned: "
            "seed 0 round 1, seed 1 round 1; tuned_again: seed 0 round 1, seed 1 round 1.",
            {"reinit": [], "tuned": [], "tuned_again": []},
        ),
    ],
)
def test_replicates_that_go_astray_keep_no_branch_from_the_others(
    config: Path,
    where: str,
    missing: str,
    finished: dict[str, list[int]],
    capsys: pytest.CaptureFixture,
) -> None:
    spoiling = {"class_path": "test_following.Spoiling", "init_args": {"rounds": where}}
    trainer = {**CONFIG["trainer"], "callbacks": [spoiling]}
    options = {"trainer": trainer, "seeds": "0-1", "report": False}
    config.write_text(yaml.safe_dump({**CONFIG, **options}))
    with pytest.raises(SystemExit) as stopped:
        main(["rounds", "--config", str(config), "--run", "run"])
    assert stopped.value.code == 1
    said, told = capsys.readouterr()
    assert told.startswith("ltpl rounds: error: ")
    assert "the loss is nan at step 1" in told
    assert told.endswith(f" Missing: {missing}\n")
    for name, seeds in finished.items():
        assert [r.seed for r in results(f"run/branches/{name}")] == seeds
    source = "run/branches/tuned"
    assert f"tuned_again: seed 1 is left out, of which {source} has no round 1." in said


def test_branches_follow_with_the_seeds_of_the_command() -> None:
    plan = Plan("run", branches={"a": None, "b": "--seeds 7"}, seeds=[0, 3], report=False)
    first, second = commands(plan)
    assert first == [
        *("branch", "run", "--name", "a", "--seeds", "0,3"),
        *("--report=false", "--quiet=false"),
    ]
    assert second[4:6] == ["--seeds", "7"]
    (only,) = commands(Plan("run", branches={"a": None}, seeds=0))
    assert only[4:6] == ["--seeds", "0"]
    assert commands(Plan("run")) == []
