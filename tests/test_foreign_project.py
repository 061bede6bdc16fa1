"""`LotteryCLI` over a project that is not ours, in a folder of its own, as a user starts it."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

FOREIGN = Path(__file__).parent / "foreign"
OPTIONS = ["--model.width=3", "--trainer.max_epochs=2", "--trainer.accelerator=cpu"]
ROUNDS = ["rounds", "--run=run", "--levels=2", "--seeds=3", "--rewind.epoch=1", *OPTIONS]
COMMANDS = {
    "rounds": [*ROUNDS, "--report=false"],
    "again": [*ROUNDS, "--report=false"],
    "branch": ["branch", "run", "--name=reinit", "--levels=1", "--report=false"],
    "fit": ["fit", "--trainer.fast_dev_run=1", "--trajectory=Trajectory", *OPTIONS],
    "wrong option": [*ROUNDS, "--run=other", "--model.widht=4"],
    "wrong class": [*ROUNDS, "--run=other", "--prune=PruneAtEpok"],
}


@dataclass
class Done:
    out: str
    err: str
    code: int


@dataclass
class Session:
    folder: Path
    done: dict[str, Done]

    def files(self, *, of: str) -> list[Path]:
        return sorted(p for p in (self.folder / of).rglob("*") if p.is_file())


@pytest.fixture(
    scope="module",
    params=["pytorch_lightning", pytest.param("lightning.pytorch", marks=pytest.mark.slow)],
)
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    if importlib.util.find_spec(request.param.partition(".")[0]) is None:
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp("project of someone")
    for file in ("train.py", "session.py"):
        shutil.copy(FOREIGN / file, folder)
    project = (FOREIGN / "project.py").read_text()
    package = f"import {request.param} as pl"
    (folder / "project.py").write_text(project.replace("import pytorch_lightning as pl", package))
    commands = json.dumps(list(COMMANDS.values()))
    subprocess.run(
        [sys.executable, "session.py", request.param, commands], cwd=folder, check=True, timeout=300
    )
    done = {
        name: Done(
            (folder / f"{i}.out").read_text(),
            (folder / f"{i}.err").read_text(),
            int((folder / f"{i}.code").read_text()),
        )
        for i, name in enumerate(COMMANDS)
    }
    return Session(folder, done)


def test_rounds_prune_the_module_of_somebody_else(session: Session) -> None:
    done = session.done["rounds"]
    assert done.code == 0, done.err
    with (session.folder / "run" / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["round"]) for row in rows] == [("3", "0"), ("3", "1"), ("3", "2")]
    assert [int(row["weights_left"]) for row in rows] == [18, 14, 11]  # 20 % less
    assert all(row["val_acc"] and row["test_acc"] for row in rows)


def test_the_same_command_again_computes_nothing(session: Session) -> None:
    done = session.done["again"]
    assert done.code == 0, done.err
    assert "3 rounds are finished, 0 are left" in done.out
    measured = [line for line in done.out.splitlines() if line.startswith(("dense", "ticket"))]
    assert len(measured) == 3
    assert measured == [
        line
        for line in session.done["rounds"].out.splitlines()
        if line.startswith(("dense", "ticket"))
    ]


def test_a_branch_needs_no_option_of_the_run_again(session: Session) -> None:
    done = session.done["branch"]
    assert done.code == 0, done.err
    branch = session.folder / "run" / "branches" / "reinit" / "seed_3" / "round_01"
    main = session.folder / "run" / "seed_3" / "round_01"
    mine, theirs = (json.loads((p / "result.json").read_text()) for p in (branch, main))
    assert mine["made_by"]["mask_digest"] == theirs["made_by"]["mask_digest"]
    assert mine["start"] != theirs["start"]


def test_the_other_commands_stay_those_of_lightning(session: Session) -> None:
    done = session.done["fit"]
    assert done.code == 0, done.err
    assert not (session.folder / "lightning_logs").exists()


@pytest.mark.parametrize(
    ("command", "given", "meant"),
    [
        ("wrong option", "--model.widht", "--model.width"),
        ("wrong class", "PruneAtEpok", "PruneAtEpoch"),
    ],
)
def test_a_mistake_is_answered_with_one_line_and_exit_code_two(
    session: Session, command: str, given: str, meant: str
) -> None:
    done = session.done[command]
    assert done.code == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert given in line
    assert f"did you mean {meant!r}?" in line
    assert not session.files(of="other")
