from __future__ import annotations

import csv
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import BATCHES, Tiny, TwoOptimizers, loader, network, trainer

from ltpl.callbacks import EarlyBird, FreezeSparsity, NetworkSlimming, PruneAtEpoch, Trajectory
from ltpl.callbacks.mask_picture import picture
from ltpl.masks import Mask, prunable, prune

FIRST = "net.0.weight"


def scalars(tmp_path: Any, module: Tiny, *callbacks: Any, **options: Any) -> dict[str, Any]:
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    options = {"log_every_n_steps": 2, "logger": logger} | options
    trainer(tmp_path, callbacks, **options).fit(module, loader())
    events = reloaded(tmp_path / "run")
    return {t: [(e.step, e.value) for e in events.Scalars(t)] for t in events.Tags()["scalars"]}


def reloaded(folder: Any) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0}).Reload()


def decoded(png: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(BytesIO(png)))).permute(2, 0, 1)


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
        assert logged[f"ticket/layers/{row.name}"][-1][1] == pytest.approx(row.density)


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


def test_a_callback_that_only_penalises_does_not_say_what_is_prunable(tmp_path: Any) -> None:
    pruner = PruneAtEpoch(1, 0.5)
    logged = scalars(
        tmp_path, Tiny(), NetworkSlimming(1e-3, None), pruner, Trajectory(), max_epochs=2
    )
    assert logged["ticket/kept"][-1][1] == pruner.mask.kept
    assert logged["ticket/density"][-1][1] == 0.5


def test_every_logger_of_the_trainer_gets_it(tmp_path: Any) -> None:
    loggers = [CSVLogger(tmp_path, name="", version="a"), CSVLogger(tmp_path, name="", version="b")]
    callbacks = [PruneAtEpoch(1, 0.5), Trajectory()]
    options = {"logger": loggers, "max_epochs": 2, "log_every_n_steps": 1}
    trainer(tmp_path, callbacks, **options).fit(Tiny(), loader())
    for version in "ab":
        with (tmp_path / version / "metrics.csv").open() as file:
            densities = [row["ticket/density"] for row in csv.DictReader(file)]
        assert {"1.0", "0.5"} <= set(densities)


def test_the_mask_of_the_first_layer_is_shown_when_training_starts_and_when_it_changes(
    tmp_path: Any,
) -> None:
    module, pruner = Tiny(), PruneAtEpoch([2, 3], [0.5, 0.0])
    scalars(tmp_path, module, Trajectory(), pruner)
    shown = reloaded(tmp_path / "run").Images(f"ticket/mask/{FIRST}")
    assert [event.step for event in shown] == [0, 2 * BATCHES]
    keeps = [Mask.dense(prunable(module))[FIRST], pruner.mask[FIRST]]
    for event, keep in zip(shown, keeps, strict=True):
        assert torch.equal(decoded(event.encoded_image_string), picture(keep))


@pytest.mark.parametrize("first", [True, False])
def test_the_order_of_callbacks_does_not_change_the_picture(tmp_path: Any, first: bool) -> None:
    module = Tiny(network())
    prune(module, 0.5).apply_(module)
    keep = module.get_parameter(FIRST).detach() != 0
    watched = [Trajectory(), FreezeSparsity()]
    scalars(tmp_path, module, *(watched if first else watched[::-1]), max_epochs=1)
    (shown,) = reloaded(tmp_path / "run").Images(f"ticket/mask/{FIRST}")
    assert torch.equal(decoded(shown.encoded_image_string), picture(keep))


def test_the_surviving_weights_are_shown_when_training_ends(tmp_path: Any) -> None:
    module, pruner = Tiny(), PruneAtEpoch(2, 0.5)
    scalars(tmp_path, module, Trajectory(), pruner)
    events = reloaded(tmp_path / "run")
    assert set(events.Tags()["histograms"]) == {f"weights/{name}" for name in pruner.mask}
    for name, keep in pruner.mask.items():
        (shown,) = events.Histograms(f"weights/{name}")
        kept = module.get_parameter(name)[keep].detach()
        found = shown.histogram_value
        assert shown.step == 5 * BATCHES
        assert found.num == len(kept)
        assert (found.min, found.max) == pytest.approx((float(kept.min()), float(kept.max())))


def test_charts_are_laid_out_once(tmp_path: Any) -> None:
    scalars(tmp_path, Tiny(), Trajectory(), PruneAtEpoch(2, 0.5))
    assert len(reloaded(tmp_path / "run").Tensors("custom_scalars__config__")) == 1


def test_pictures_can_be_left_out(tmp_path: Any) -> None:
    scalars(tmp_path, Tiny(), Trajectory(histograms=False, images=False), PruneAtEpoch(2, 0.5))
    tags = reloaded(tmp_path / "run").Tags()
    assert not tags["images"]
    assert not tags["histograms"]


def test_a_trial_run_writes_nothing(tmp_path: Any) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    trainer(tmp_path, [Trajectory()], logger=logger, fast_dev_run=True).fit(Tiny(), loader())
    assert not list(tmp_path.iterdir())


def resumed(tmp_path: Any, *versions: str) -> None:
    """Fit two epochs, and go on for two more with each other version of the logger."""
    last = None
    for number, version in enumerate(versions):
        logger = TensorBoardLogger(tmp_path, name="", version=version)
        options = {"logger": logger, "max_epochs": 2 * number + 2, "log_every_n_steps": 1}
        run = trainer(tmp_path, [Trajectory(), PruneAtEpoch(1, 0.5)], **options)
        run.fit(Tiny(), loader(), ckpt_path=last)
        run.save_checkpoint(last := tmp_path / "last.ckpt")


def test_a_resumed_fit_shows_each_picture_once(tmp_path: Any) -> None:
    resumed(tmp_path, "run", "run")
    events = reloaded(tmp_path / "run")
    assert [event.step for event in events.Images(f"ticket/mask/{FIRST}")] == [0, BATCHES]
    assert len(events.Tensors("custom_scalars__config__")) == 1


def test_a_fit_that_goes_on_elsewhere_shows_its_mask_there(tmp_path: Any) -> None:
    resumed(tmp_path, "one", "two")
    (shown,) = reloaded(tmp_path / "two").Images(f"ticket/mask/{FIRST}")
    assert shown.step == 2 * BATCHES


def test_learning_rates_are_logged_once_a_step_while_gradients_accumulate(tmp_path: Any) -> None:
    options = {"max_epochs": 2, "accumulate_grad_batches": 3, "log_every_n_steps": 1}
    logged = scalars(tmp_path, Tiny(), Trajectory(), **options)
    assert [step for step, _ in logged["lr/SGD"]] == [0, 1, 2, 3]


def test_several_optimisers_share_the_axis_of_all_metrics(tmp_path: Any) -> None:
    logged = scalars(tmp_path, TwoOptimizers(), Trajectory(), max_epochs=2)
    assert [step for step, _ in logged["lr/SGD-0"]] == list(range(0, 2 * BATCHES, 2))
    assert [step for step, _ in logged["ticket/density"]] == [BATCHES - 1, 2 * BATCHES - 1]
