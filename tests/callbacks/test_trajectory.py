from __future__ import annotations

import csv
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import BATCHES, Tiny, TwoOptimizers, loader, network, trainer

from ltpl.callbacks import EarlyBird, FreezeSparsity, PruneAtEpoch, Trajectory
from ltpl.masks import prunable, prune


def scalars(tmp_path: Any, module: Tiny, *callbacks: Any, **options: Any) -> dict[str, Any]:
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    options = {"log_every_n_steps": 2, "logger": logger} | options
    trainer(tmp_path, callbacks, **options).fit(module, loader())
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    return {t: [(e.step, e.value) for e in events.Scalars(t)] for t in events.Tags()["scalars"]}


def test_density_is_logged_at_the_pruning_and_at_each_epoch_end(tmp_path: Any) -> None:
    pruner = PruneAtEpoch(2, 0.5)
    logged = scalars(tmp_path, Tiny(), Trajectory(), pruner)
    ends = [(e + 1) * BATCHES - 1 for e in range(5)]
    expected = [*zip(ends[:2], [1.0, 1.0], strict=True), (2 * BATCHES, 0.5)]
    expected += [(end, 0.5) for end in ends[2:]]
    assert logged["ticket/density"] == expected
    assert logged["ticket/kept"][-1][1] == pruner.mask.kept
    module_share = logged["ticket/density_all"][-1][1]
    assert 0.5 < module_share < 1
    for row in pruner.mask.table():
        assert logged[f"density/{row.name}"][-1][1] == pytest.approx(row.density)


def test_statistics_speak_of_surviving_weights_only(tmp_path: Any) -> None:
    module, pruner = Tiny(), PruneAtEpoch(2, 0.5)
    logged = scalars(tmp_path, module, pruner, Trajectory())
    for name, keep in pruner.mask.items():
        kept = module.get_parameter(name)[keep].detach()
        assert logged[f"weights_mean_abs/{name}"][-1][1] == pytest.approx(float(kept.abs().mean()))
        assert logged[f"weights_std/{name}"][-1][1] == pytest.approx(float(kept.std(correction=0)))
        assert logged[f"weights_norm/{name}"][-1][1] == pytest.approx(float(kept.norm()))


def test_learning_rates_are_logged_by_step_for_every_optimiser(tmp_path: Any) -> None:
    schedule = lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5)  # noqa: E731
    logged = scalars(tmp_path, Tiny(schedule=schedule), Trajectory(), max_epochs=2)
    assert logged["lr/SGD"] == [
        (step, pytest.approx(0.1 if step < BATCHES else 0.05)) for step in range(0, 2 * BATCHES, 2)
    ]
    both = scalars(tmp_path / "two", TwoOptimizers(), Trajectory(), max_epochs=1)
    assert {"lr/SGD-0", "lr/SGD-1"} <= both.keys()


def test_density_can_be_monitored(tmp_path: Any) -> None:
    runner = trainer(tmp_path, [PruneAtEpoch(1, 0.5), Trajectory()], max_epochs=2)
    runner.fit(Tiny(), loader())
    assert float(runner.callback_metrics["ticket/density"]) == 0.5


def test_without_any_mask_density_is_what_is_not_zero(tmp_path: Any) -> None:
    module = Tiny(network())
    mask = prune(module, 0.5)
    mask.apply_(module)
    freezer = FreezeSparsity()
    runner = trainer(tmp_path, [freezer, Trajectory(layers=False)], max_epochs=1)
    runner.fit(module, loader())
    assert float(runner.callback_metrics["ticket/density"]) == pytest.approx(mask.density)
    alone = trainer(tmp_path, [Trajectory()], max_epochs=1, limit_train_batches=0)
    alone.fit(module, loader())


def test_a_callback_that_only_watches_does_not_say_what_is_prunable(tmp_path: Any) -> None:
    module = Tiny(network())
    callbacks = [EarlyBird(action="stop", channels="magnitude"), Trajectory()]
    runner = trainer(tmp_path, callbacks, max_epochs=2)
    runner.fit(module, loader())
    weights = sum(p.numel() for p in prunable(module).values())
    assert float(runner.callback_metrics["ticket/kept"]) == weights


def test_every_logger_of_the_trainer_gets_it(tmp_path: Any) -> None:
    loggers = [CSVLogger(tmp_path, name="", version="a"), CSVLogger(tmp_path, name="", version="b")]
    callbacks = [PruneAtEpoch(1, 0.5), Trajectory()]
    options = {"logger": loggers, "max_epochs": 2, "log_every_n_steps": 1}
    trainer(tmp_path, callbacks, **options).fit(Tiny(), loader())
    for version in "ab":
        with (tmp_path / version / "metrics.csv").open() as file:
            densities = [row["ticket/density"] for row in csv.DictReader(file)]
        assert {"1.0", "0.5"} <= set(densities)
