from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ltpl.modules import ImageClassifier, WarmupDrops


def sgd(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def rates(schedule: WarmupDrops, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_from_zero_to_its_value_and_falls_at_each_drop() -> None:
    schedule = WarmupDrops(sgd(0.4), drops=["6it", "8it"], warmup="4it", factor=0.5)
    expected = [0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    assert rates(schedule, 10) == pytest.approx(expected)


def test_the_rise_may_begin_above_zero() -> None:
    assert rates(WarmupDrops(sgd(), warmup="2it", start=0.1), 3) == pytest.approx([0.1, 0.55, 1.0])


def test_without_options_nothing_changes() -> None:
    assert rates(WarmupDrops(sgd(0.3)), 5) == [0.3] * 5


def test_epochs_and_iterations_mix() -> None:
    schedule = WarmupDrops(sgd(), drops=[2], warmup="3it", steps_per_epoch=5)
    assert rates(schedule, 11) == pytest.approx([0, 1 / 3, 2 / 3, *[1.0] * 7, 0.1])


def test_each_group_keeps_its_own_rate() -> None:
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (1.0, 0.5)]
    schedule = WarmupDrops(torch.optim.SGD(groups), drops=["0it"])
    assert [group["lr"] for group in schedule.optimizer.param_groups] == pytest.approx([0.1, 0.05])


def test_a_schedule_goes_on_from_its_state() -> None:
    whole = rates(WarmupDrops(sgd(), drops=["5it"], warmup="3it"), 8)
    first = WarmupDrops(sgd(), drops=["5it"], warmup="3it")
    begun = rates(first, 4)
    second = WarmupDrops(sgd(), drops=["5it"], warmup="3it")
    second.load_state_dict(first.state_dict())
    second.optimizer.param_groups[0]["lr"] = second.get_last_lr()[0]
    assert begun + rates(second, 4) == pytest.approx(whole)


@pytest.mark.parametrize("moment", ["80epochs", "-3it", 2.5, True, "ep", ""])
def test_an_unreadable_moment_is_named(moment: Any) -> None:
    with pytest.raises(ValueError, match="wanted") as raised:
        WarmupDrops(sgd(), drops=[moment])
    assert str(raised.value) == (
        f"drops={moment!r}: epochs such as '80ep' or iterations such as '32000it' are wanted."
    )


class Rates(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *others: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def fitted(schedule: Any, tmp_path: Any, **options: Any) -> list[float]:
    module_options = {key: options.pop(key) for key in ("lr_interval",) if key in options}
    module = ImageClassifier(
        nn.Linear(4, 3),
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler=schedule,
        **module_options,
    )
    seen = Rates()
    trainer = pl.Trainer(
        **{"max_epochs": 3} | options,
        accelerator="cpu",
        logger=False,
        callbacks=[seen],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    data = TensorDataset(torch.randn(12, 4), torch.randint(3, (12,)))
    loader = DataLoader(data, batch_size=3)  # four batches an epoch
    trainer.fit(module, loader, loader)
    return seen.seen


LOGS_LITTLE = pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")


@LOGS_LITTLE
@pytest.mark.parametrize(
    ("accumulate", "expected"),
    [
        (1, [0.0, 0.5, 1.0, 1.0, *[0.1] * 4, *[0.01] * 4]),
        (2, [0.0, 0.0, 0.5, 0.5, *[0.1] * 4, *[0.01] * 4]),  # steps, not batches
    ],
)
def test_in_a_fit_it_counts_steps_and_knows_the_length_of_an_epoch(
    tmp_path: Any, accumulate: int, expected: list[float]
) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> WarmupDrops:
        return WarmupDrops(optimizer, drops=["1ep", "2ep"], warmup="2it")

    found = fitted(schedule, tmp_path, accumulate_grad_batches=accumulate)
    assert found == pytest.approx(expected)


@LOGS_LITTLE
def test_the_length_of_an_epoch_is_known_where_only_steps_are_limited(tmp_path: Any) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> WarmupDrops:
        return WarmupDrops(optimizer, drops=["1ep"])

    found = fitted(schedule, tmp_path, max_epochs=-1, max_steps=6)
    assert found == pytest.approx([1.0] * 4 + [0.1] * 2)


def test_epochs_want_data_with_a_length(tmp_path: Any) -> None:
    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            while True:
                yield torch.randn(4), torch.tensor(0)

    module = ImageClassifier(
        nn.Linear(4, 3), lr_scheduler=lambda optimizer: WarmupDrops(optimizer, drops=["1ep"])
    )
    trainer = pl.Trainer(max_steps=3, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    loader = DataLoader(Endless(), batch_size=2)
    with pytest.raises(ValueError, match=r"^lr_scheduler: it counts epochs.*'32000it'\.$"):
        trainer.fit(module, loader, loader)


@LOGS_LITTLE
def test_torch_schedules_step_each_epoch_or_by_option_each_step(tmp_path: Any) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    assert fitted(schedule, tmp_path, max_epochs=2) == pytest.approx([1.0] * 4 + [0.5] * 4)
    each_step = fitted(schedule, tmp_path, max_epochs=1, lr_interval="step")
    assert each_step == pytest.approx([1.0, 0.5, 0.25, 0.125])


@LOGS_LITTLE
def test_a_plateau_schedule_watches_what_it_is_told_to(tmp_path: Any) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        from pytorch_lightning.cli import ReduceLROnPlateau

        return ReduceLROnPlateau(
            optimizer, monitor="val/acc", patience=0, threshold=2.0, factor=0.5
        )

    assert fitted(schedule, tmp_path)[-1] < 1.0
