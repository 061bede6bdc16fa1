"""What may happen to a run from outside: it is said in a line, and the same command goes on."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from small import Small, bits, find
from starting import PROJECT, command, ended, started, wait_for
from torch import Tensor

from ltpl.callbacks import RewindToEpoch
from ltpl.rounds.alone import alone
from ltpl.rounds.events import events
from ltpl.rounds.finite import Astray, Diverged, Finite
from ltpl.rounds.status import status

DAC_OVERRIDE, DROP = 1, 24  # what lets root write anywhere; prctl's word to give it up


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    ended(started(command(run, 1)))
    return run


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_training_after_the_step_with_a_checkpoint(
    tmp_path: Path, whole: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = started(command(run, 1), PAUSE="0.1")
    wait_for(run, "seed_0/round_01/metrics.csv", [process])
    process.send_signal(number)
    said = ended(process, 128 + number)
    assert f"{number.name}: stopping after this step, with a checkpoint" in said
    assert f"To go on: python {PROJECT} rounds --run={run} --levels=2" in said
    checkpoint = torch.load(run / "seed_0/round_01/checkpoints/last.ckpt", weights_only=True)
    step = int(checkpoint["global_step"])
    assert f"{number.name}: step {step} is in the checkpoint" in said
    assert f"seed 0 round 1/2: goes on from step {step}" in ended(started(command(run, 1)))
    assert bits(run) == bits(whole)


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = started(command(run, 1), PAUSE="20")
    wait_for(run, "seed_0/round_00/config.yaml", [process])
    time.sleep(2)  # it is in its first step, which takes long
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert "To go on:" in ended(process, 128 + signal.SIGINT)


def test_a_full_disk_is_named_and_what_is_whole_stays(tmp_path: Path, whole: Path) -> None:
    """A limit on the size of files is met in the very calls that a full disk fails."""
    run = tmp_path / "run"
    most = (whole / "seed_0/round_00/final.safetensors").stat().st_size - 200

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    said = ended(started(command(run, 1, "--quiet=true"), limit), 1)
    assert said.count("\n") == 1
    assert said.startswith("spread.py rounds: error: ")
    assert "File too large; what is finished is kept, and the same command goes on" in said
    assert not [path for path in run.rglob(".*") if path.name != ".lock"]
    ended(started(command(run, 1)))
    assert bits(run) == bits(whole)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="gives up a capability of Linux")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)

    def as_anybody() -> None:
        if not os.geteuid():
            ctypes.CDLL(None).prctl(DROP, DAC_OVERRIDE, 0, 0, 0)

    said = ended(started(command(tmp_path / "closed/run", 1), as_anybody), 2)
    assert f"error: {tmp_path}/closed/run cannot be written: Permission denied" in said
    assert said.count("\n") == 1


def test_a_second_process_on_the_same_rounds_is_refused(tmp_path: Path, whole: Path) -> None:
    with alone(whole / "seed_0"):
        before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.*") if path.is_file()}
        said = ended(started(command(whole, 1)), 2)
        assert f"Another process (PID {os.getpid()} on" in said
        assert said.count("\n") == 1
        assert [path for path, at in before.items() if path.stat().st_mtime_ns != at] == []


class Astray1(Small):
    """The replicate with seed 1 goes astray in its seventh step."""

    def __init__(self) -> None:
        super().__init__()
        self.astray = torch.initial_seed() == 1

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss / 0 if self.astray and self.global_step == 6 else loss


def test_a_loss_that_is_not_finite_ends_its_replicate_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # the second time nothing is left to do, and it is said again
        with pytest.raises(Astray, match="seed 1 round 0: the loss is inf at step 7"):
            find(tmp_path / "run", make_model=Astray1, seeds="0-2", quiet=False)
        said = capsys.readouterr().out
        assert "the last finite loss was" in said
        assert "at step 6" in said
    finished = {path.parent.parent.name for path in (tmp_path / "run").rglob("result.json")}
    assert finished == {"seed_0", "seed_2"}
    assert "3 rounds" not in said
    assert "round 0 went astray (the loss is inf at step 7" in status(tmp_path / "run")
    assert not (tmp_path / "run/seed_1/round_00/final.safetensors").exists()


def test_a_gradient_scaler_may_look_for_its_scale() -> None:
    finite = Finite(patience=3)
    for step, loss in enumerate([1.0, float("inf"), float("nan"), float("inf"), 0.5], 1):
        finite.note(step, torch.tensor(loss))
        assert finite.look() is None
    for step in range(6, 9):
        finite.note(step, {"loss": torch.tensor(float("nan"))})
        assert finite.look() is None
    finite.note(9, torch.tensor(float("nan")))
    found = finite.look()
    assert isinstance(found, Diverged)
    assert str(found) == "the loss is nan at step 6; the last finite loss was 0.5 at step 5"


def test_weights_are_looked_at_before_they_are_kept(tmp_path: Path) -> None:
    class Spoiled(Small):
        def on_train_epoch_end(self) -> None:
            with torch.no_grad():
                self.net[0].weight.fill_(torch.nan)

    with pytest.raises(Astray, match="weights are no longer finite at step 4"):
        find(tmp_path / "run", make_model=Spoiled, trainer={"max_epochs": 1})
    assert not list((tmp_path / "run").rglob("final.safetensors"))


def test_events_are_read_in_order_though_the_clock_was_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "seed_0/round_00"
    monkeypatch.setattr(time, "time", lambda: 2e9)
    for value, (now, step) in enumerate([(2e9, 0), (1e9, 5), (1e9, 8)]):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        logger = events("pytorch_lightning", folder, step)
        logger.log_metrics({"value": value}, step)
        logger.experiment.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("value")] == [(0, 0), (5, 1), (8, 2)]


def test_the_rewinding_point_stays_when_training_is_repeated(tmp_path: Path) -> None:
    """A snapshot with another header but the same content is the same snapshot."""
    run = find(tmp_path / "run", rewind=RewindToEpoch(epoch=1))
    start = run.tree.round(0, 0) / "snapshot.safetensors"
    run.tree.put_aside(0, 0)
    before = start.read_bytes()
    find(tmp_path / "run", rewind=RewindToEpoch(epoch=1))
    assert start.read_bytes() == before
    assert not list(start.parent.glob("snapshot-v*"))
