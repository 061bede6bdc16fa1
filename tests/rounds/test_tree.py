"""The folder of a run, what it says, and how it is read."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small import Interrupted, Watch, bits, find
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ltpl.rounds.find import Run
from ltpl.rounds.status import status
from ltpl.rounds.tree import COLUMNS
from ltpl.tickets import Snapshot
from ltpl.tickets.result import Result, results, round_folder, seeds_and_rounds
from ltpl.tickets.ticket import Ticket

OF_A_ROUND = {
    "config.yaml",
    "metrics.csv",
    "mask.safetensors",
    "snapshot.safetensors",
    "final.safetensors",
    "result.json",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tree") / "run"
    return find(folder, levels=2, seeds=[0, 2], report=True, trainer={"max_epochs": 1})


def files(folder: Path) -> set[str]:
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    return {"events" if "events.out.tfevents" in name else name for name in found}


def test_a_finished_round_holds_these_files_alone(run: Run) -> None:
    for seed in (0, 2):
        for level in range(3):
            folder = run.path / f"seed_{seed}/round_{level:02}"
            assert files(folder) == OF_A_ROUND | {"events"}
            assert len(list(folder.glob("events.out.tfevents.*"))) == 1


def test_a_run_holds_these_folders_alone(run: Run) -> None:
    names = {p.name for p in run.path.iterdir()}
    assert names == {"run.json", "summary.csv", "summary", "seed_0", "seed_2", "report"}
    assert (run.path / "report/index.html").is_file()


def test_the_summary_has_a_row_for_each_round(run: Run) -> None:
    with (run.path / "summary.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    said = "seed,round,density,weights_left,val_acc,test_acc,early_stop_step,seconds"
    said += ",density_all,start_acc,pruned_acc,epochs"
    assert ",".join(header) == ",".join(COLUMNS) == said
    assert [(int(r[0]), int(r[1]), int(r[3])) for r in rows] == [
        (seed, level, kept) for seed in (0, 2) for level, kept in enumerate((90, 45, 23))
    ]
    for row, result in zip(rows, run.results, strict=True):
        assert float(row[2]) == pytest.approx(result.kept / 90, rel=1e-5)
        shown = [result.val_acc, result.test_acc]
        assert [float(v) for v in row[4:6]] == pytest.approx(shown, rel=1e-5)
        assert int(row[6]) == result.early_stop_step
        assert float(row[7]) == pytest.approx(result.seconds, abs=0.01)


def test_the_summary_is_shown_by_tensorboard(run: Run) -> None:
    events = EventAccumulator(str(run.path / "summary"))
    events.Reload()
    for level in range(3):
        both = [r for r in run.results if r.round == level]
        for name in ("val_acc", "start_acc", "early_stop_step", "epochs", "test_acc"):
            mean = sum(getattr(r, name) for r in both) / 2
            of_rounds = {e.step: e.value for e in events.Scalars(f"rounds/{name}")}
            assert of_rounds[level] == pytest.approx(mean)
        pruned = round(1000 * (1 - both[0].density))
        on_axis = {e.step: e.value for e in events.Scalars("pruned_permille/test_acc")}
        assert on_axis[pruned] == pytest.approx(mean)
        for result in both:
            beneath = EventAccumulator(str(run.path / f"summary/seed_{result.seed}"))
            beneath.Reload()
            own = {e.step: e.value for e in beneath.Scalars("rounds/test_acc")}
            assert own[level] == pytest.approx(result.test_acc)


def test_the_record_says_what_was_run(run: Run) -> None:
    record = json.loads((run.path / "run.json").read_text())
    assert record["format"] == "ltpl.run/1"
    assert (record["levels"], record["seeds"]) == (2, [0, 2])
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["config"]["trainer"]["max_epochs"] == 1
    config = yaml.safe_load((run.path / "seed_0/round_00/config.yaml").read_text())
    assert config["prune"]["amounts"] == [0.5]


def test_masks_tickets_and_results_are_read_from_a_run(run: Run) -> None:
    again = Run.open(run.path)
    assert [(r.seed, r.round) for r in again.results] == [(s, n) for s in (0, 2) for n in range(3)]
    assert again.results == run.results == results(run.path)
    for result in run.results:
        mask = again.mask(result.round, result.seed)
        assert (mask.kept, mask.digest) == (result.kept, result.made_by["mask_digest"])
        ticket = again.ticket(result.round, result.seed)
        assert ticket.mask.digest == mask.digest
        assert result.branch is None
    assert again.mask(1).digest != again.mask(1, seed=2).digest
    with pytest.raises(FileNotFoundError, match="round_07"):
        again.mask(7)
    with pytest.raises(ValueError, match="is not a run"):
        Run.open(run.path / "seed_0")


def test_folders_that_are_no_rounds_are_passed_over(tmp_path: Path) -> None:
    for name in ("seed_0/round_02", "seed_0/round_xx", "seed_a/round_00", "seed_10/round_100"):
        (tmp_path / name).mkdir(parents=True)
    found = [(seed, level) for seed, level, _ in seeds_and_rounds(tmp_path)]
    assert found == [(0, 2), (10, 100)]
    assert round_folder(tmp_path, 10, 100) == tmp_path / "seed_10/round_100"
    assert round_folder(tmp_path, 0, 2) == tmp_path / "seed_0/round_02"


def test_the_status_says_what_is_done_and_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltpl.rounds.checkpoint.SHARE", 1e9)
    watch = Watch()
    watch.interrupt("seed_0/round_01", 1, 1)
    with pytest.raises(Interrupted):
        find(tmp_path / "run", watch, levels=4, seeds=[0, 1])
    head, *lines = status(tmp_path / "run").splitlines()
    assert head == f"{tmp_path / 'run'}: 2 seeds, 4 levels"
    assert lines == [
        "  seed 0: 1 of 5 rounds done, round 1 interrupted, goes on from its checkpoint, left: 2-4",
        "  seed 1: 0 of 5 rounds done, left: 0-4",
    ]
    with pytest.raises(ValueError, match="is not a run"):
        status(tmp_path)


def test_the_status_shows_branches_and_finished_runs(tmp_path: Path) -> None:
    from ltpl.callbacks import PruneAtEpoch, RewindToEpoch
    from ltpl.rounds.branch import Branch
    from ltpl.rounds.branches import run_branch
    from ltpl.rounds.find import InPython

    run = find(tmp_path / "run", levels=1, trainer={"max_epochs": 1})
    assert status(run.path).splitlines()[1:] == ["  seed 0: 2 of 2 rounds done"]
    from small import Data, Small

    trainer = {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1}
    parts = (PruneAtEpoch(amount=0.5), RewindToEpoch())
    run_branch(
        InPython(Small, Data, *parts, trainer),
        Branch("mine", kind="reinit", report=False, quiet=True),
        run.path,
    )
    assert status(run.path).splitlines()[1:] == [
        "  seed 0: 2 of 2 rounds done",
        "branch mine (reinit)",
        "  seed 0: 1 of 1 rounds done",
    ]


def test_what_is_shown_on_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch()
    find(tmp_path / "run", watch, quiet=False, trainer={"max_epochs": 1})
    shown = capsys.readouterr().out
    assert "seed 0 round 0/1: 100.00 % of weights, val " in shown
    assert "seed 0 round 1/1:  50.00 % of weights, val " in shown
    assert "summary.csv" in shown
    find(tmp_path / "run", watch, quiet=False, trainer={"max_epochs": 1})
    assert "2 rounds are finished, 0 are left" in capsys.readouterr().out
    find(tmp_path / "run", watch, trainer={"max_epochs": 1})
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore:.*logging interval")
def test_a_dry_run_finishes_and_trains_one_batch(tmp_path: Path) -> None:
    watch = Watch()
    find(tmp_path / "run", watch, levels=1, trainer={"fast_dev_run": True})
    assert [fit.steps for fit in watch._fits] == [[0], [0]]
    assert not list(tmp_path.rglob("*"))


def test_training_is_left_as_it_was_by_what_reads_it(run: Run) -> None:
    before = bits(run.path)
    status(run.path)
    Run.open(run.path).ticket(1)
    assert bits(run.path) == before


def test_a_torn_result_is_named(tmp_path: Path) -> None:
    for content in ("{", "{}", '{"format": "ltpl.result/0"}'):
        (tmp_path / "result.json").write_text(content)
        with pytest.raises(ValueError, match="is no result of a round"):
            Result.load(tmp_path / "result.json")


OTHER_NAMESPACE = """
import sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", ".*does not have many workers.*")
warnings.filterwarnings("ignore", ".*LeafSpec.*")
import lightning.pytorch as L, torch
from torch.utils.data import DataLoader, TensorDataset
import ltpl.rounds.checkpoint
from ltpl.rounds.find import find_tickets
ltpl.rounds.checkpoint.SHARE = 1e9

class Small(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    def training_step(self, batch, batch_idx):
        return self.validation_step(batch, batch_idx)
    def validation_step(self, batch, batch_idx):
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("val_loss" if not self.training else "loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
    def train_dataloader(self, shuffle=True):
        data = TensorDataset(torch.arange(64.).view(16, 4).sin(), torch.arange(16) % 2)
        return DataLoader(data, 4, shuffle=shuffle)
    def val_dataloader(self):
        return self.train_dataloader(shuffle=False)

class Stop(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if STOP and trainer.current_epoch == 1:
            raise RuntimeError("stop")

STOP = len(sys.argv) > 2
run = find_tickets(
    Small, run=sys.argv[1], levels=1, prune={"amount": 0.5}, quiet=True, report=False,
    rewind={"at": "1ep2it"}, trainer=dict(max_epochs=2, accelerator="cpu", log_every_n_steps=1,
                                       callbacks=[Stop()]),
)
print([r.kept for r in run.results], [r.steps for r in run.results])
"""


@pytest.mark.slow
def test_rounds_of_the_other_package_run_and_go_on(tmp_path: Path) -> None:
    pytest.importorskip("lightning")

    def once(folder: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", OTHER_NAMESPACE, str(tmp_path / folder), *more]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)

    whole = once("whole")
    assert whole.stdout == "[48, 24] [8, 8]\n", whole.stderr
    assert "RuntimeError: stop" in once("run", "stop").stderr
    assert once("run").stdout == whole.stdout
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_a_snapshot_of_the_dense_round_is_the_rewinding_point(tmp_path: Path) -> None:
    watch = Watch(keep_weights=True)
    run = find(tmp_path / "run", watch, rewind={"at": "1ep2it"})
    ticket = Ticket.load(run.path / "seed_0/round_00")
    assert ticket.start.step == "1ep2it"
    assert ticket.mask.density == 1
    weights = watch.of("seed_0/round_00").alive[5]
    everything = {**ticket.start.weights, **ticket.start.buffers}
    assert all(torch.equal(everything[name], weights[name]) for name in weights)
    final = Snapshot.load(run.path / "seed_0/round_00/final.safetensors")
    assert final.step == "end"
