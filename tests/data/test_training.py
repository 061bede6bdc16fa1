from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import cross_entropy

from ltpl.data.augment import Augmentation
from ltpl.data.order import EpochBatches
from ltpl.data.resident import BatchLoader, Look, Resident

from .numbered import QUIET, Numbered, Recorder, Saving, fit, flat, numbered, same_weights

SAMPLES = 23  # three batches of six and one of five
BATCHES = 4
EPOCHS = 3
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # 1 core


@pytest.fixture
def data() -> Resident:
    return numbered(SAMPLES)


def orders(batch_size: int, seed: int, epochs: int = EPOCHS) -> dict[int, list[list[int]]]:
    sampler = EpochBatches(range(SAMPLES), batch_size, seed=seed)
    found = {}
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found[epoch] = [batch.tolist() for batch in sampler]
    return found


def test_the_trainer_gives_every_epoch_its_order(
    data: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    found = fit(data, max_epochs=EPOCHS).epochs
    assert found == orders(6, seed=11)
    assert len({tuple(flat(batches)) for batches in found.values()}) == EPOCHS


def test_a_loader_needs_no_data_module(data: Resident, tmp_path: Path) -> None:
    def fitted(ckpt_path: Path | None = None, **options: Any) -> Recorder:
        look = Look(augmentation=Augmentation(crop=2))
        loader = BatchLoader(data, 5, shuffle=True, look=look, augment=True)
        loader.sampler.seed = 11
        recorder = Recorder(data)
        trainer = pl.Trainer(**QUIET, max_epochs=EPOCHS, **options)
        trainer.fit(recorder, loader, BatchLoader(data, 5), ckpt_path=ckpt_path)
        return recorder

    saving = Saving(tmp_path)
    whole = fitted(callbacks=saving)
    assert whole.epochs == orders(5, seed=11)
    for batches in (3, 5, 12):
        rest = fitted(saving.saved[batches])
        assert rest.seen == whole.seen[batches:]
        assert same_weights(rest, whole)


def test_what_else_draws_random_numbers_changes_no_batch(data: Resident) -> None:
    class Drawing(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            torch.rand(3)

    one = fit(data, max_epochs=2)
    other = fit(data, max_epochs=2, callbacks=Drawing())
    assert one.seen == other.seen
    assert same_weights(one, other)


def test_training_is_the_same_to_the_bit_wherever_images_are_kept(data: Resident) -> None:
    one = fit(data, Numbered(data, resident=True), max_epochs=2)
    for workers in (0, 2):
        streamed = Numbered(data, resident=False, num_workers=workers)
        other = fit(data, streamed, max_epochs=2)
        assert one.seen == other.seen
        assert same_weights(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": EPOCHS},
        {"max_steps": EPOCHS * BATCHES},
        {"max_steps": EPOCHS * BATCHES - 2},
        {"max_epochs": EPOCHS, "limit_train_batches": 3},
        {"max_epochs": EPOCHS, "accumulate_grad_batches": 2},
        {"max_steps": 6, "accumulate_grad_batches": 2, "limit_train_batches": 3},
        {"max_epochs": EPOCHS, "val_check_interval": 2},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()),
)
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_validation_end"])
def test_a_fit_goes_on_from_any_checkpoint_as_if_it_had_not_been_stopped(
    data: Resident, tmp_path: Path, options: dict[str, Any], hook: str
) -> None:
    saving = Saving(tmp_path, hook)
    whole = fit(data, callbacks=saving, **options)
    assert len(saving.saved) >= 2
    for batches, path in saving.saved.items():
        rest = fit(data, ckpt_path=path, **options)
        assert rest.seen == whole.seen[batches:]
        assert same_weights(rest, whole)


@pytest.mark.parametrize("length", [{"max_epochs": EPOCHS}, {"max_steps": EPOCHS * BATCHES}])
@pytest.mark.parametrize(
    ("hook", "stops"),
    [
        ("on_train_batch_end", (2, 3, 6, 11)),
        # where an epoch's last batch ends, Lightning 2.6 goes on but once
        ("on_train_epoch_end", (4, 8)),
        ("on_train_epoch_end", (4, 6, 8, 11)),
    ],
)
def test_a_fit_may_be_stopped_many_times(
    data: Resident, tmp_path: Path, length: dict[str, int], hook: str, stops: Sequence[int]
) -> None:
    def part(folder: str, ckpt_path: Path | None = None) -> tuple[Recorder, dict[int, Path]]:
        savings = [Saving(tmp_path / folder / each, each) for each in (hook, "on_train_batch_end")]
        found = fit(data, callbacks=savings, ckpt_path=ckpt_path, **length)
        return found, savings[1].saved | savings[0].saved

    whole, saved = part("whole")
    trained = 0
    for stop in stops:
        rest, saved = part(str(stop), saved[stop - trained])
        trained = stop
        assert rest.seen == whole.seen[trained:]
        assert same_weights(rest, whole)


@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_a_fit_that_reached_its_last_step_goes_on_with_more(
    data: Resident, tmp_path: Path, steps: int
) -> None:
    whole = fit(data, max_epochs=EPOCHS)
    saving = Saving(tmp_path)
    first = fit(data, callbacks=saving, max_steps=steps)
    rest = fit(data, ckpt_path=saving.saved[steps], max_epochs=EPOCHS)
    assert first.seen + rest.seen == whole.seen
    assert same_weights(rest, whole)


def test_a_fit_goes_on_where_it_was_stopped_with_other_workers(
    data: Resident, tmp_path: Path
) -> None:
    saving = Saving(tmp_path)
    whole = fit(data, callbacks=saving, max_epochs=2)
    streamed = Numbered(data, resident=False, num_workers=2)
    rest = fit(data, streamed, ckpt_path=saving.saved[6], max_epochs=2)
    assert rest.seen == whole.seen[6:]
    assert same_weights(rest, whole)


def test_limits_and_accumulation_count_batches(data: Resident) -> None:
    whole = fit(data, max_epochs=2)
    limited = fit(data, max_epochs=2, limit_train_batches=3, accumulate_grad_batches=2)
    assert limited.seen == whole.seen[:3] + whole.seen[4:7]
    assert limited.trainer.global_step == 4


@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning")
def test_overfitting_repeats_whole_batches(data: Resident) -> None:
    found = fit(data, max_epochs=2, overfit_batches=2)
    assert found.epochs[0] == found.epochs[1] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    recorder = Recorder(data)
    trainer = pl.Trainer(**QUIET, max_epochs=2, overfit_batches=2)
    trainer.fit(recorder, BatchLoader(data, 6, shuffle=True), BatchLoader(data, 5))
    assert recorder.epochs == found.epochs


def judged(trainer: pl.Trainer, recorder: Recorder, data: Resident) -> dict[str, float]:
    module = Numbered(data)
    (val,) = trainer.validate(recorder, datamodule=module, verbose=False)
    (test,) = trainer.test(recorder, datamodule=module, verbose=False)
    return {name: float(value) for name, value in (val | test).items()}


def test_judging_and_predicting_take_every_sample_once_and_in_order(data: Resident) -> None:
    recorder = Recorder(data)
    trainer = pl.Trainer(**QUIET)
    with torch.no_grad():
        logits = recorder(data.images / 255.0)
    loss = float(cross_entropy(logits, data.labels))
    right = float((logits.argmax(1) == data.labels).float().mean())
    assert judged(trainer, recorder, data) == pytest.approx(
        {"val_loss": loss, "val_acc": right, "test_loss": loss, "test_acc": right}, abs=1e-6
    )
    predicted = torch.cat(trainer.predict(recorder, datamodule=Numbered(data)))
    torch.testing.assert_close(predicted, logits)


@pytest.mark.slow
def test_two_processes_share_every_epoch_and_judge_as_one_does(
    data: Resident, tmp_path: Path
) -> None:
    torch.save({"images": data.images, "labels": data.labels}, tmp_path / "data.pt")
    done = subprocess.run(
        [sys.executable, "-m", "data.two_processes", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]

    one = fit(data, max_epochs=2)
    expected = {
        (step.epoch, number): image
        for step in one.seen
        for number, image in zip(step.numbers, step.images, strict=True)
    }
    found: dict[tuple[int, int], Any] = {}
    for rank in ranks:
        assert [epoch for epoch, *_ in rank["seen"]] == [0, 0, 1, 1]
        for epoch, numbers, images in rank["seen"]:
            for number, image in zip(numbers, images, strict=True):
                assert (epoch, number) not in found
                found[epoch, number] = image
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)

    alone = judged(pl.Trainer(**QUIET), Recorder(data), data)
    for rank in ranks:
        assert rank["judged"] == pytest.approx(alone, abs=1e-6)
        assert rank["goes_on"]
