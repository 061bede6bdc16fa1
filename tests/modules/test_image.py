from __future__ import annotations

import json
import subprocess
import sys
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
    return ImageClassifier(nn.Linear(6, 3), optimizer=lambda p: torch.optim.SGD(p, lr=lr))


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
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    )
    run = trainer(tmp_path, max_epochs=3, log_every_n_steps=1)
    train(run, module, samples(12), 4)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.125)


def test_it_learns_the_digits(tmp_path: Path) -> None:
    module = ImageClassifier(
        MLP(inputs=64, hidden=[100, 50], outputs=10, init="glorot_normal"),
        optimizer=lambda p: torch.optim.Adam(p, lr=3e-3),
    )
    data = Digits()
    run = trainer(tmp_path, max_epochs=10, log_every_n_steps=10)
    run.fit(module, datamodule=data)
    assert run.callback_metrics["val/acc"] > 0.9
    assert run.test(module, datamodule=data, verbose=False)[0]["test/acc"] > 0.9


class Images(TensorDataset):
    def __init__(self, number: int) -> None:
        super().__init__(torch.randn(number, 3, 8, 8), torch.randint(4, (number,)))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)
    )


def trained(tmp_path: Path, data: Images, options: dict[str, Any], **of_trainer: Any) -> Any:
    module = ImageClassifier(
        convolutions(), optimizer=lambda p: torch.optim.SGD(p, lr=0.05), **options
    )
    run = trainer(tmp_path, log_every_n_steps=1, max_epochs=2, **of_trainer)
    run.fit(module, DataLoader(data, 8), DataLoader(data, 8))
    return module, run.callback_metrics


def test_channels_last_changes_the_memory_and_not_the_training(tmp_path: Path) -> None:
    data = Images(24)
    plain, expected = trained(tmp_path, data, {})
    module, found = trained(tmp_path, data, {"channels_last": True})
    kernel = module.network[0].weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert not plain.network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert float(found["val/loss"]) == pytest.approx(float(expected["val/loss"]), rel=1e-4)
    torch.testing.assert_close(kernel, plain.network[0].weight, rtol=1e-3, atol=1e-5)


def test_channels_last_reaches_the_network(tmp_path: Path) -> None:
    module = ImageClassifier(convolutions(), channels_last=True)
    seen = []
    module.network[0].register_forward_hook(lambda _, given, out: seen.append(given[0]))
    module(torch.randn(2, 3, 8, 8))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert not ImageClassifier(nn.Flatten()).channels_last


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("compiler", [{"backend": "aot_eager"}, {"backend": "eager"}])
def test_compiling_changes_neither_names_nor_the_training(
    tmp_path: Path, compiler: dict[str, str]
) -> None:
    data = Images(24)
    plain, expected = trained(tmp_path, data, {})
    module, found = trained(tmp_path, data, {"compile": compiler})
    assert module.network._compiled_call_impl is not None
    assert plain.network._compiled_call_impl is None
    assert module.state_dict().keys() == plain.state_dict().keys()
    assert float(found["val/loss"]) == pytest.approx(float(expected["val/loss"]), rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bf16_trains_and_measures_its_loss_in_float32(tmp_path: Path, precision: str) -> None:
    data = Images(24)
    _, expected = trained(tmp_path, data, {})
    module, found = trained(tmp_path, data, {}, precision=precision)
    kind = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert module.network[0].weight.dtype == kind
    assert found["val/loss"].dtype == torch.float32
    assert float(found["val/loss"]) == pytest.approx(float(expected["val/loss"]), rel=0.1)


def test_label_smoothing_acts_on_training_alone(tmp_path: Path) -> None:
    x, y = torch.randn(9, 6), torch.randint(3, (9,))
    module = ImageClassifier(nn.Linear(6, 3), label_smoothing=0.2)
    smooth = cross_entropy(module(x), y, label_smoothing=0.2)
    assert torch.equal(module.training_step((x, y), 0), smooth)
    run = trainer(tmp_path)
    measured = run.validate(module, DataLoader(TensorDataset(x, y), 4), verbose=False)[0]
    assert measured["val/loss"] == pytest.approx(float(cross_entropy(module(x), y).detach()))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_wrong_smoothing_is_named(share: float) -> None:
    with pytest.raises(ValueError, match=rf"^label_smoothing={share}: a number is wanted, 0 <= "):
        ImageClassifier(nn.Linear(6, 3), label_smoothing=share)


def test_norms_go_without_weight_decay_by_option() -> None:
    module = ImageClassifier(
        convolutions(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.5),
        no_decay=["norm"],
    )
    optimizer = module.configure_optimizers()
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    norm = {id(p) for p in module.network[1].parameters()}
    assert {decay[id(p)] for p in module.parameters() if id(p) in norm} == {0.0}
    assert {decay[id(p)] for p in module.parameters() if id(p) not in norm} == {0.5}


def test_metrics_of_the_user_are_logged_over_all_samples(tmp_path: Path) -> None:
    from torchmetrics.classification import MulticlassAccuracy

    x, y = torch.randn(23, 6), torch.randint(3, (23,))
    top2 = MulticlassAccuracy(num_classes=3, top_k=2, average="micro")
    module = ImageClassifier(nn.Linear(6, 3), metrics={"top2": top2})
    measured = trainer(tmp_path).test(module, DataLoader(TensorDataset(x, y), 10), verbose=False)[0]
    best = module(x).topk(2).indices
    assert measured["test/top2"] == pytest.approx(float((best == y[:, None]).any(1).float().mean()))
    assert measured["test/acc"] <= measured["test/top2"]
    assert all(name.startswith("network.") for name in module.state_dict())


def test_a_network_with_too_few_outputs_is_told_before_training(tmp_path: Path) -> None:
    module = ImageClassifier(
        MLP(inputs=64, outputs=4), optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
    )
    message = r"^outputs=4: Digits has 10 classes.*set outputs=10\.$"
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).fit(module, datamodule=Digits())


def test_accuracy_every_n_iterations_is_an_option_of_the_trainer(tmp_path: Path) -> None:
    rows = Rows()
    run = trainer(tmp_path, logger=rows, val_check_interval=3, log_every_n_steps=12)
    train(run, classifier(), samples(48), 4)
    assert rows.steps("val/acc") == [2, 5, 8, 11]


def test_it_predicts_logits(tmp_path: Path) -> None:
    x, y = torch.randn(9, 6), torch.randint(3, (9,))
    module = classifier()
    for data in (TensorDataset(x, y), x):
        parts = trainer(tmp_path).predict(module, DataLoader(data, 4))
        torch.testing.assert_close(torch.cat(parts), module(x))


def test_the_means_of_an_epoch_count_each_of_its_samples(tmp_path: Path) -> None:
    data, rows = samples(23), Rows()
    module = classifier(lr=0.0)
    run = trainer(tmp_path, logger=rows, max_epochs=2, log_every_n_steps=1)
    train(run, module, data, 5)
    x, y = data.tensors
    logits = module(x).detach()
    means = [row for _, row in rows.rows if "train/acc_epoch" in row]
    assert len(means) == 2
    for row in means:
        assert row["train/acc_epoch"] == pytest.approx(float((logits.argmax(1) == y).sum()) / 23)
        assert row["train/loss_epoch"] == pytest.approx(float(cross_entropy(logits, y)))


def test_the_means_of_an_epoch_outlive_an_interruption(tmp_path: Path) -> None:
    whole, first = classifier(), classifier()
    x, y = torch.randn(6, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    first.load_state_dict(whole.state_dict())
    for module in (whole, first):
        module.training_step((x[:2], y[:2]), 0)
    kept: dict[str, Any] = {}
    first.on_save_checkpoint(kept)
    second = classifier()
    second.load_state_dict(whole.state_dict())
    second.on_load_checkpoint(kept)
    for module in (whole, second):
        module.training_step((x[2:], y[2:]), 1)
    assert float(second._sums["loss"]) == float(whole._sums["loss"])
    assert (int(second._sums["acc"]), second._sums["size"]) == (int(whole._sums["acc"]), 6)


def test_the_learning_rate_is_logged_with_the_loss(tmp_path: Path) -> None:
    rows = Rows()
    run = trainer(tmp_path, logger=rows, log_every_n_steps=4)
    train(run, classifier(lr=0.3), samples(60), 5)
    assert rows.steps("train/lr") == rows.steps("train/loss") == [3, 7, 11]
    assert all(row["train/lr"] == pytest.approx(0.3) for _, row in rows.rows if "train/lr" in row)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_processes.py")
    found = []
    for processes in ("1", "2"):
        done = subprocess.run(
            [sys.executable, str(script), processes],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
