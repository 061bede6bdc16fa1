"""What a round is judged by: before training, at the early stop, at the end, once on test data."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from small import BATCHES, EPOCHS, Data, Small, Watch, bits, find, part
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ltpl.rounds.measure import accuracy, validation_loss
from ltpl.tickets import Snapshot

STEPS = BATCHES * EPOCHS


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def judged(weights: dict[str, torch.Tensor], seed: int) -> tuple[float, float]:
    """Loss and accuracy of a network on the validation or test data."""
    module = Small().eval()
    module.load_state_dict(weights)
    x, y, _ = part(seed).tensors
    with torch.no_grad():
        losses, rights = [], []
        for a, b in zip(x.split(12), y.split(12), strict=True):
            logits = module.net(a)
            losses.append(float(cross_entropy(logits, b)))
            rights.append(float((logits.argmax(1) == b).float().mean()))
    return sum(losses) / len(losses), sum(rights) / len(rights)


def test_the_ticket_is_validated_before_its_training(tmp_path: Path) -> None:
    watch = Watch()
    run = find(tmp_path / "run", watch)
    for result in run.results:
        name = f"seed_0/round_{result.round:02}"
        loss, right = judged(watch.of(name).weights, 1)
        first, *_ = rows(run.path / name)
        assert first["step"] == "0"
        for found in (result.start, {k: float(v) for k, v in first.items()}):
            assert found["val_loss"] == pytest.approx(loss, rel=1e-5)
            assert found["val_acc"] == pytest.approx(right)


def test_a_rewound_ticket_is_validated_at_its_step(tmp_path: Path) -> None:
    run = find(tmp_path / "run", rewind={"at": "1ep"})
    first, *_ = rows(run.path / "seed_0/round_01")
    assert (first["step"], "val_loss" in first) == (str(BATCHES), True)


class Sinking(Small):
    """The validation loss falls until a step, then rises, whatever the weights are."""

    best = 7

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", float(abs(self.trainer.global_step - self.best)))
        self.log("val_acc", float(self.trainer.global_step))


@pytest.mark.parametrize("interval", [1, 2])
def test_the_early_stop_is_the_step_of_the_minimum(tmp_path: Path, interval: int) -> None:
    watch = Watch(keep_weights=True)
    trainer = {"val_check_interval": interval}
    run = find(tmp_path / "run", watch, Sinking, trainer=trainer, test_at="early_stop")
    expected = 7 if interval == 1 else 6  # the first of two that are equal
    for result in run.results:
        assert result.early_stop_step == expected
        assert result.early_stop == {"val_loss": abs(7 - expected), "val_acc": expected}
        assert result.end == {"val_loss": STEPS - 7, "val_acc": STEPS}
        assert result.val_acc == expected
        assert result.steps == STEPS


def test_the_weights_of_the_early_stop_are_tested_where_asked(tmp_path: Path) -> None:
    for test_at, step in (("early_stop", 7), ("end", STEPS)):
        watch = Watch(keep_weights=True)
        trainer = {"val_check_interval": 1}
        run = find(tmp_path / test_at, watch, Sinking, trainer=trainer, test_at=test_at)
        for level, (name, tested) in enumerate(watch._tests):
            weights = watch.of(name).alive[step - 1]
            assert name == f"seed_0/round_{level:02}"
            assert all(torch.equal(tested[n], weights[n]) for n in weights)
            assert run.results[level].test["test_loss"] == pytest.approx(
                judged(weights, 2)[0], rel=1e-5
            )
            final = Snapshot.load(run.path / name / "final.safetensors").weights
            last = watch.of(name).alive[-1]
            assert all(torch.equal(final[n], last[n]) for n in final)


def test_what_is_tested_changes_nothing_that_is_trained(tmp_path: Path) -> None:
    one = find(tmp_path / "one", levels=2, test_at="end")
    other = find(tmp_path / "other", levels=2, test_at="early_stop")
    without = find(tmp_path / "without", make_model=Untested, levels=2)
    assert bits(one.path) == bits(other.path) == bits(without.path)


class Untested(Small):
    test_step = pl.LightningModule.test_step


class Unvalidated(Small):
    validation_step = pl.LightningModule.validation_step


class TrainingAlone(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return Data().train_dataloader()


def test_each_round_is_tested_once_and_after_its_training(tmp_path: Path) -> None:
    watch = Watch()
    run = find(tmp_path / "run", watch, levels=2)
    assert [name for name, _ in watch._tests] == watch.names
    for result in run.results:
        weights = watch._tests[result.round][1]
        loss, right = judged(weights, 2)
        assert result.test == pytest.approx({"test_loss": loss, "test_acc": right}, rel=1e-5)
        assert result.test_acc == result.test["test_acc"]
        end_loss, end_acc = judged(weights, 1)
        assert result.end == pytest.approx({"val_loss": end_loss, "val_acc": end_acc}, rel=1e-5)
        tested = [r for r in rows(run.path / watch.names[result.round]) if "test_loss" in r]
        assert [r["step"] for r in tested] == [str(STEPS)]


@pytest.mark.filterwarnings("ignore:.*skipping val loop")
@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:.*no `validation_step`")
@pytest.mark.filterwarnings("ignore:.*but have no `v")
@pytest.mark.parametrize(
    ("make_model", "make_data", "validated", "tested"),
    [
        (Untested, Data, True, False),
        (Unvalidated, Data, False, True),
        (Small, TrainingAlone, False, False),
    ],
)
@pytest.mark.parametrize("test_at", ["end", "early_stop"])
def test_modules_without_validation_or_test_work(
    tmp_path: Path, make_model: Any, make_data: Any, validated: bool, tested: bool, test_at: str
) -> None:
    run = find(tmp_path / "run", None, make_model, make_data, test_at=test_at)
    for result in run.results:
        assert bool(result.start) == bool(result.end) == bool(result.early_stop) == validated
        assert (result.early_stop_step is None) == (result.val_acc is None) == (not validated)
        assert bool(result.test) == tested
        assert (result.test_acc is None) == (not tested)
        assert result.steps == STEPS


class Own(Small):
    """Brings its data."""

    def train_dataloader(self) -> DataLoader:
        return Data().train_dataloader()

    def val_dataloader(self) -> DataLoader:
        return Data().val_dataloader()


def test_a_module_may_bring_its_data(tmp_path: Path) -> None:
    run = find(tmp_path / "run", None, Own, None)
    assert all(r.start and r.end and not r.test for r in run.results)


def test_training_that_ends_between_validations_is_validated_at_its_end(tmp_path: Path) -> None:
    watch = Watch(keep_weights=True)
    run = find(tmp_path / "run", watch, trainer={"check_val_every_n_epoch": 2})
    for result in run.results:
        last = watch.of(f"seed_0/round_{result.round:02}").alive[-1]
        assert result.end["val_loss"] == pytest.approx(judged(last, 1)[0], rel=1e-5)
        assert result.early_stop_step == 2 * BATCHES


def test_the_loss_is_found_by_its_name() -> None:
    assert validation_loss(["val_acc", "val_loss", "val_loss_of_head"], None) == "val_loss"
    assert validation_loss(["Loss/valid", "top1"], None) == "Loss/valid"
    assert validation_loss(["val_loss", "other"], "other") == "other"
    assert validation_loss([], None) is None


def test_the_accuracy_is_found_by_its_name() -> None:
    metrics = {"val_accuracy_top5": 0.9, "val_accuracy": 0.5, "val_f1": 0.3}
    assert accuracy(metrics, None) == 0.5
    assert accuracy(metrics, "F1") == 0.3
    assert accuracy({"val_loss": 1.0}, None) is None


def test_the_summary_shows_the_accuracy_that_is_asked_for(tmp_path: Path) -> None:
    run = find(tmp_path / "run", levels=0, accuracy="loss")
    (result,) = run.results
    assert (result.val_acc, result.test_acc) == (result.end["val_loss"], result.test["test_loss"])
