from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from ltpl.data import Digits
from ltpl.models import MLP
from ltpl.modules import ImageClassifier


class Rows(Logger):
    """Keeps what is logged."""

    name, version = "rows", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def steps(self, name: str) -> list[int]:
        return [step for step, metrics in self.rows if name in metrics]


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    options = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    } | options
    return pl.Trainer(**options)


def samples(number: int) -> TensorDataset:
    return TensorDataset(torch.randn(number, 6), torch.randint(3, (number,)))


def train(run: pl.Trainer, module: ImageClassifier, data: TensorDataset, batch_size: int) -> None:
    run.fit(module, DataLoader(data, batch_size), DataLoader(samples(7), batch_size))


def classifier(lr: float = 0.1) -> ImageClassifier:
    return ImageClassifier(nn.Linear(6, 3), lambda p: torch.optim.SGD(p, lr=lr))


def test_it_predicts_without_a_trainer() -> None:
    module = classifier()
    x = torch.randn(4, 6)
    assert torch.equal(module(x), module.network(x))
    loss = module.training_step((x, torch.tensor([0, 1, 2, 0])), 0)
    loss.backward()
    assert module.network.weight.grad is not None


@pytest.mark.parametrize("stage", ["val", "test"])
def test_evaluation_counts_samples_not_batches(tmp_path: Path, stage: str) -> None:
    data = samples(23)
    module = classifier()
    run = trainer(tmp_path)
    evaluate = run.validate if stage == "val" else run.test
    measured = evaluate(module, DataLoader(data, batch_size=10), verbose=False)[0]
    x, y = data.tensors
    logits = module(x).detach()
    assert set(measured) == {f"{stage}/loss", f"{stage}/acc"}
    assert measured[f"{stage}/acc"] == pytest.approx(float((logits.argmax(1) == y).sum()) / 23)
    assert measured[f"{stage}/loss"] == pytest.approx(float(cross_entropy(logits, y)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_values_are_those_of_the_steps_that_are_written(
    tmp_path: Path, accumulate: int
) -> None:
    data, rows = samples(60), Rows()
    run = trainer(
        tmp_path,
        logger=rows,
        log_every_n_steps=4,
        accumulate_grad_batches=accumulate,
        max_epochs=2,
    )
    module = classifier(lr=0.0)
    train(run, module, data, 5)
    written = [row for row in rows.rows if "train/loss" in row[1]]
    steps = 24 // accumulate
    assert [step for step, _ in written] == list(range(3, steps, 4))
    for step, metrics in written:
        last = ((step + 1) * accumulate - 1) % 12
        x, y = (part[5 * last : 5 * last + 5] for part in data.tensors)
        logits = module(x).detach()
        assert metrics["train/loss"] == pytest.approx(float(cross_entropy(logits, y)))
        assert metrics["train/acc"] == pytest.approx(float((logits.argmax(1) == y).float().mean()))


def test_other_steps_log_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = []
    module = classifier()
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.extend(values))
    run = trainer(tmp_path, log_every_n_steps=5)
    train(run, module, samples(48), 4)
    assert logged.count("train/loss") == 3  # steps 5 and 10, and the last one of the epoch


def test_callbacks_find_the_training_values_at_the_end_of_a_short_epoch(tmp_path: Path) -> None:
    run = trainer(tmp_path, log_every_n_steps=50)
    train(run, classifier(), samples(12), 4)
    assert {"train/loss", "train/acc"} <= set(run.callback_metrics)


def test_a_development_run_logs_its_one_step(tmp_path: Path) -> None:
    run = trainer(tmp_path, fast_dev_run=1)
    train(run, classifier(), samples(12), 4)
    assert "train/loss" in run.callback_metrics


def test_the_schedule_is_stepped_once_an_epoch(tmp_path: Path) -> None:
    module = ImageClassifier(
        nn.Linear(6, 3),
        lambda p: torch.optim.SGD(p, lr=1.0),
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    )
    run = trainer(tmp_path, max_epochs=3, log_every_n_steps=1)
    train(run, module, samples(12), 4)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.125)


def test_it_learns_the_digits(tmp_path: Path) -> None:
    module = ImageClassifier(
        MLP(inputs=64, hidden=[100, 50], outputs=10, init="glorot_normal"),
        lambda p: torch.optim.Adam(p, lr=3e-3),
    )
    data = Digits()
    run = trainer(tmp_path, max_epochs=10, log_every_n_steps=10)
    run.fit(module, datamodule=data)
    assert run.callback_metrics["val/acc"] > 0.9
    assert run.test(module, datamodule=data, verbose=False)[0]["test/acc"] > 0.9
