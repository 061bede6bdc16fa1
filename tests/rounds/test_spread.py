"""Rounds in several processes: as one process with the same global batch, or a clear end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starting import GLOBAL, PROJECT, command, ended, started

from ltpl.masks.mask import Mask
from ltpl.rounds.find import Run
from ltpl.tickets.snapshot import Snapshot


def masks(run: Path) -> list[Mask]:
    return [Mask.load(path) for path in sorted(run.rglob("mask.safetensors"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    ended(started(command(run, 1, "--save_every_n_steps=4")))
    return run


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run of two processes that the command starts by itself, and what it said."""
    run = tmp_path_factory.mktemp("two") / "run"
    return run, ended(started(command(run, 2)))


def same_as(run: Path, alone: Path) -> bool:
    """Whether masks are the same, and metrics are up to rounding."""
    ours, theirs = Run.open(run).results, Run.open(alone).results
    for one, other in zip(ours, theirs, strict=True):
        assert one.test == pytest.approx(other.test, abs=1e-6)
        assert one.early_stop == pytest.approx(other.early_stop, abs=1e-6)
        assert (one.steps, one.early_stop_step) == (other.steps, other.early_stop_step)
    return masks(run) == masks(alone)


def test_two_processes_find_the_masks_of_one(in_two: tuple[Path, str], alone: Path) -> None:
    assert same_as(in_two[0], alone)


def test_several_processes_speak_with_one_voice(in_two: tuple[Path, str]) -> None:
    run, said = in_two
    for level in range(3):
        assert said.count(f"seed 0 round {level}/2") == 1
    assert said.count(str(run / "summary.csv")) == 1
    for level in range(3):
        events = list(Run.open(run).tree.round(0, level).glob("events*"))
        assert len(events) == 1
    assert not [path for path in run.rglob("*") if ".part" in path.name]


@pytest.mark.slow
def test_three_processes_of_torchrun_find_the_masks_of_one(tmp_path: Path, alone: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=3", "--standalone", "--"]
    ended(started([*torchrun, *command(tmp_path / "run", 3)]))
    assert same_as(tmp_path / "run", alone)


@pytest.mark.slow
def test_sharded_rounds_find_the_masks_of_one_process(tmp_path: Path, alone: Path) -> None:
    run, strategy = tmp_path / "run", "--trainer.strategy.init_args"
    fsdp2 = [
        "--trainer.devices=2",
        "--trainer.strategy.class_path=ModelParallelStrategy",
        f"{strategy}.data_parallel_size=2",
        f"{strategy}.tensor_parallel_size=1",
    ]
    batch = f"--data.batch_size={GLOBAL // 2}"
    sharded = [*command(run, 1, "--model.sharded=true"), batch, *fsdp2]
    said = ended(started(sharded), 2)
    assert "Set save_distributed_checkpoint=false" in said
    assert not run.exists()
    ended(started([*sharded, f"{strategy}.save_distributed_checkpoint=false"]))
    assert same_as(run, alone)


@pytest.mark.slow
def test_a_branch_trains_its_rewinding_point_in_all_processes(
    in_two: tuple[Path, str], alone: Path
) -> None:
    where: dict[int, Any] = {1: alone, 2: in_two[0]}
    for processes, run in where.items():
        late = ["--name=late", "--kind=rewind", "--rewind.epoch=1", "--levels=2", "--report=false"]
        ended(started([str(PROJECT), "branch", str(run), *late]))
        branch = run / "branches/late/seed_0"
        assert (branch / "round_02/result.json").is_file(), processes
    points = [
        Snapshot.load(run / "branches/late/seed_0/rewind/1ep.safetensors") for run in where.values()
    ]
    assert points[0].step == points[1].step == "1ep"
    for name, weight in points[0].weights.items():
        assert weight.sub(points[1].weights[name]).abs().max() < 1e-12
