"""Runs in several processes that are cut short: all end, it is said why, and all go on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from small import bits
from starting import PROJECT, command, ended, started, wait_for

pytestmark = pytest.mark.slow  # each starts processes by the pair, several times

OPTIONS = ["--model.dropout=0.3", "--save_every_n_steps=2"]  # each draws random numbers of its own


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that nothing happened to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    ended(started(command(run, 2, *OPTIONS)))
    return run


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def slurm(processes: int, arguments: Sequence[str], **more: str) -> list[subprocess.Popen[str]]:
    """Start the tasks of a job, as `srun` would."""
    job = {
        "SLURM_JOB_ID": "4242",
        "SLURM_JOB_NAME": "tickets",
        "SLURM_NTASKS": f"{processes}",
        "SLURM_NTASKS_PER_NODE": f"{processes}",
        "SLURM_NODELIST": "localhost",
        "SLURM_NODEID": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        **more,
    }
    ranks = [{"SLURM_PROCID": f"{r}", "SLURM_LOCALID": f"{r}"} for r in range(processes)]
    return [started(arguments, **job, **rank) for rank in ranks]


def test_a_job_of_slurm_is_requeued_and_goes_on(tmp_path: Path, whole: Path) -> None:
    called = tmp_path / "called"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ >> {called}\n")
    scontrol.chmod(0o755)
    run, path = tmp_path / "run", f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    tasks = slurm(2, command(run, 2, *OPTIONS), PATH=path, PAUSE="0.2")
    wait_for(run, "seed_0/round_01/metrics.csv", tasks)
    for task in tasks:
        task.send_signal(signal.SIGUSR1)
    said = "".join(ended(task, 128 + signal.SIGUSR1) for task in tasks)
    assert called.read_text() == "requeue 4242\n"
    assert said.count("SLURM has requeued job 4242") == 1
    assert (run / "seed_0/round_01/checkpoints/last.ckpt").is_file()
    said = "".join(ended(task) for task in slurm(2, command(run, 2, *OPTIONS)))
    assert "seed 0 round 1/2: goes on from step" in said
    assert bits(run) == bits(whole)


def children(process: subprocess.Popen[str]) -> list[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in found.split()]


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
@pytest.mark.parametrize("kill_leader", [False, True])
def test_when_one_process_is_killed_all_end_and_the_same_command_goes_on(
    tmp_path: Path, whole: Path, kill_leader: bool
) -> None:
    run = tmp_path / "run"
    leader = started(command(run, 2, *OPTIONS), PAUSE="0.15")
    wait_for(run, "seed_0/round_01/checkpoints/last.ckpt", [leader])
    other = next(pid for pid in children(leader) if "rounds" in _command_line(pid))
    if kill_leader:
        leader.kill()
        said = leader.communicate(timeout=60)[1]
        assert f"The process that leads (PID {leader.pid}) is gone" in said
    else:
        os.kill(other, signal.SIGKILL)
        said = ended(leader, 1)
        assert f"Process 1 of 2 (PID {other}) was killed by SIGKILL, so all end" in said
    assert said.count("the same command goes on from the last checkpoint") == 1
    deadline = time.monotonic() + 30
    while is_alive(other) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(other)
    said = ended(started(command(run, 2, *OPTIONS)))
    assert "seed 0 round 1/2: goes on from step" in said
    assert bits(run) == bits(whole)


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_a_signal_to_one_process_stops_all_at_one_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    leader = started(command(run, 2), PAUSE="0.2")
    wait_for(run, "seed_0/round_01/metrics.csv", [leader])
    leader.send_signal(signal.SIGTERM)
    said = ended(leader, 128 + signal.SIGTERM)
    assert "SIGTERM: stopping after this step, with a checkpoint" in said
    assert said.count(f"is in the checkpoint. To go on: python {PROJECT} rounds --run={run}") == 1


def test_a_loss_that_is_nan_in_one_process_ends_the_replicate_in_all(tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = ended(started(command(run, 2, "--model.nan_from=7", "--seeds=0,1")), 1)
    for seed in (0, 1):
        assert f"seed {seed} round 0: the loss is nan at step 8; the last finite loss was" in said
        assert json.loads((run / f"seed_{seed}/round_00/diverged.json").read_text())["step"] == 8


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine.txt").write_text("kept")
    said = ended(started(command(run, 2)), 2)
    assert said.count("is not empty and not a run") == 1
    assert [path.name for path in run.iterdir()] == ["mine.txt"]
