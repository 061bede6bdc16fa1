"""Branches that a config names: checked before anything is trained, run after the main line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
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


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ltpl"])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return path


def test_one_command_runs_the_branches_too(config: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["rounds", "--config", str(config), "--run", "run"]
    main([*command, "--only", "tuned*"])
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
        ({"branches": {"x/y": "--kind reinit"}}, "name='x/y'"),
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
