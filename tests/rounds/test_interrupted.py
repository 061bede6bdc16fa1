"""A round that was interrupted goes on, and ends with the same bits."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from small import (
    BATCHES,
    EPOCHS,
    SIZE,
    Augmented,
    Data,
    InMemory,
    Interrupted,
    OfImages,
    Small,
    Watch,
    bits,
    find,
    part,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, RandomSampler, WeightedRandomSampler

from ltpl.rounds.alone import LOCK
from ltpl.rounds.checkpoint import newest_checkpoint
from ltpl.rounds.find import Run

DENSE, PRUNED = "seed_0/round_00", "seed_0/round_01"


@pytest.fixture(autouse=True)
def _every_epoch_end_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltpl.rounds.checkpoint.SHARE", 1e9)


class OwnGenerator(Data):
    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(5)
        return DataLoader(Augmented(part(0)), SIZE, shuffle=True, generator=generator)


class OwnSampler(Data):
    def train_dataloader(self) -> DataLoader:
        data = Augmented(part(0))
        return DataLoader(data, SIZE, sampler=RandomSampler(data, replacement=True))


class Weighted(Data):
    def train_dataloader(self) -> DataLoader:
        weights = torch.linspace(0.1, 1, BATCHES * SIZE).tolist()
        return DataLoader(
            Augmented(part(0)), SIZE, sampler=WeightedRandomSampler(weights, len(weights))
        )


@pytest.fixture(autouse=True)
def _event_files_of_one_second_sort_by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names end in a counter: the tenth file of a process would be read before the ninth."""
    counter = event_file_writer.AtomicCounter(10**6)
    monkeypatch.setattr(event_file_writer, "_global_uid", counter)


class ReadAhead(InMemory):
    workers = 2


class TwoWorkers(Data):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(Augmented(part(0)), SIZE, shuffle=True, num_workers=2)


class Lasting(Data):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            Augmented(part(0)), SIZE, shuffle=True, num_workers=2, persistent_workers=True
        )


class Manual(Small):
    """Two optimisers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        first = torch.optim.SGD(self.net[0].parameters(), lr=0.1, momentum=0.9)
        rest = [p for module in self.net[1:] for p in module.parameters()]
        return [first, torch.optim.Adam(rest, lr=0.01)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()


class Plateau(Small):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=9)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"},
        }


class OneCycle(Small):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=BATCHES * EPOCHS)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Unreadable:
    """What no checkpoint may hold if it shall load without running code."""


class Remembering(Small):
    def __init__(self, lr: float = 0.1, extra: Any = None) -> None:
        super().__init__(lr)
        self.save_hyperparameters()


def remembering() -> Remembering:
    return Remembering(extra=Unreadable())


@dataclass
class Case:
    points: list[tuple[str, int, int]]
    make_model: Callable[[], Any] = Small
    make_data: Callable[[], Any] = Data
    trainer: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Any]] = list


EVERY_3 = {"save_every_n_steps": 3}
LATE = {"rewind": {"at": "1ep2it", "optimizer": "restored"}}
MIDDLE = [(DENSE, 1, 1), (PRUNED, 2, 2)]
CASES = {
    "first_epoch": Case([(DENSE, 0, 1), (PRUNED, 0, 0)]),
    "epoch_ends": Case([(DENSE, 1, -1), (DENSE, 2, 0), (PRUNED, 1, 0), (PRUNED, 2, -1)]),
    "steps": Case([(DENSE, 1, 1), (DENSE, 2, 3), (PRUNED, 0, 3), (PRUNED, 2, 0)], options=EVERY_3),
    "late": Case([(DENSE, 1, 1), (PRUNED, 1, 3), (PRUNED, 2, 2)], options=LATE),
    "late_steps": Case([(DENSE, 2, 1), (PRUNED, 2, 1)], options={**LATE, "save_every_n_steps": 1}),
    "generator": Case(MIDDLE, make_data=OwnGenerator, options=EVERY_3),
    "sampler": Case(MIDDLE, make_data=OwnSampler, options=EVERY_3),
    "in_memory": Case(MIDDLE, make_model=OfImages, make_data=InMemory, options=EVERY_3),
    "in_memory_late": Case(MIDDLE, make_model=OfImages, make_data=InMemory, options=LATE),
    "weighted": Case(MIDDLE, make_data=Weighted, options=EVERY_3),
    "manual": Case(MIDDLE, make_model=Manual, options={**LATE, "save_every_n_steps": 2}),
    "manual_late": Case(
        [(PRUNED, 2, 1)], make_model=Manual, options={"rewind": {"at": "1ep"}, **EVERY_3}
    ),
    "accumulated": Case(
        MIDDLE, trainer={"accumulate_grad_batches": 2}, options={"save_every_n_steps": 100}
    ),
    "one_cycle": Case(MIDDLE, make_model=OneCycle, options={**LATE, **EVERY_3}),
    "validated_in_epochs": Case(
        [(DENSE, 2, 1), (PRUNED, 1, 0)], trainer={"val_check_interval": 2}, options=EVERY_3
    ),
    "validated_across_epochs": Case(
        [(DENSE, 2, 0), (PRUNED, 2, 2)],
        trainer={"val_check_interval": 3, "check_val_every_n_epoch": None},
        options={"save_every_n_steps": 2},
    ),
    "early_stop_weights": Case(MIDDLE, options={"test_at": "early_stop"}),
    "hyper_parameters": Case(MIDDLE, make_model=remembering),
    "finetune": Case(MIDDLE, options={"rewind": {"policy": "finetune", "at": "1ep"}}),
    "frozen": Case(MIDDLE, options={"rewind": {"mask_0": "freeze"}}),
    "averaged": Case(
        MIDDLE, callbacks=lambda: [pl.callbacks.EMAWeightAveraging(decay=0.5)], options=EVERY_3
    ),
    "max_steps": Case([(DENSE, 1, 1), (PRUNED, 2, 0)], trainer={"max_steps": 10}),
    "a step of several batches": Case(
        [(DENSE, 1, 2), (PRUNED, 2, 1)],
        trainer={"accumulate_grad_batches": 2},
        options={"save_every_n_steps": 1},
    ),
    "a checkpoint at the step of a validation": Case(
        [(DENSE, 1, 2), (PRUNED, 1, 2)], trainer={"val_check_interval": 2}, options=EVERY_3
    ),
    "ReduceLROnPlateau": Case([(DENSE, 1, 1), (PRUNED, 2, 1)], make_model=Plateau),
}


def once(case: Case, folder: Path, watch: Watch) -> Run:
    return find(
        folder,
        watch,
        case.make_model,
        case.make_data,
        case.callbacks(),
        case.trainer,
        **case.options,
    )


def resumed(case: Case, folder: Path, watch: Watch) -> Run:
    """Run it, interrupted at every point."""
    for point in case.points:
        watch.interrupt(*point)
        with pytest.raises(Interrupted):
            once(case, folder, watch)
    return once(case, folder, watch)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def measured(run: Run) -> list[dict[str, Any]]:
    """All that a result says, except for how long it took."""
    return [{k: v for k, v in vars(r).items() if k != "seconds"} for r in run.results]


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a round, except for how long it took."""
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "final/seconds"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize("name", CASES)
def test_interrupted_rounds_end_with_the_same_bits(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    whole = once(case, tmp_path / "whole", Watch())
    run = resumed(case, tmp_path / "resumed", Watch())
    assert bits(run.path) == bits(whole.path)
    assert measured(run) == measured(whole)
    for level in (DENSE, PRUNED):
        assert rows(run.path / level) == rows(whole.path / level)
        assert shown(run.path / level) == shown(whole.path / level)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    "make_data",
    [
        TwoWorkers,
        Lasting,
        ReadAhead,
    ],
)
def test_interrupted_rounds_with_workers_end_with_the_same_bits(
    tmp_path: Path, make_data: Any
) -> None:
    make_model = OfImages if make_data is ReadAhead else Small
    case = Case(
        [(PRUNED, 1, 2)],
        make_model=make_model,
        make_data=make_data,
        trainer={"max_epochs": 2},
        options=EVERY_3,
    )
    whole = once(case, tmp_path / "whole", Watch())
    run = resumed(case, tmp_path / "resumed", Watch())
    assert bits(run.path) == bits(whole.path)


def test_a_round_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    watch = Watch()
    case = Case([(DENSE, 1, 3), (PRUNED, 2, 1)], options=EVERY_3)
    resumed(case, tmp_path / "run", watch)
    fits = [(fit.name, fit.step) for fit in watch._fits]
    assert fits == [(DENSE, 0), (DENSE, 6), (PRUNED, 0), (PRUNED, 9)]
    assert [fit.steps[0] for fit in watch._fits] == [0, 6, 0, 9]


def test_without_checkpoints_in_epochs_a_round_goes_on_from_an_epochs_end(tmp_path: Path) -> None:
    watch = Watch()
    resumed(Case([(DENSE, 1, 3), (PRUNED, 2, 1)]), tmp_path / "run", watch)
    assert [fit.step for fit in watch._fits] == [0, BATCHES, 0, 2 * BATCHES]


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    watch, case = Watch(), Case([(PRUNED, 1, 1)], options={"levels": 2})
    run = resumed(case, tmp_path / "run", watch)
    assert watch.names == [DENSE, PRUNED, PRUNED, "seed_0/round_02"]
    files = {p: p.stat().st_mtime_ns for p in run.path.glob("seed_*/*/*")}
    watch._validations.clear()
    once(case, run.path, watch)
    assert len(watch.names) == 4
    assert not watch._validations
    assert files == {p: p.stat().st_mtime_ns for p in run.path.glob("seed_*/*/*")}


def test_the_ticket_of_an_interrupted_round_is_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ltpl.rounds.run as loop

    drawn = []
    real = loop.next_mask
    monkeypatch.setattr(loop, "next_mask", lambda *a, **k: drawn.append(1) or real(*a, **k))
    resumed(Case([(PRUNED, 0, 1), (PRUNED, 1, 1)]), tmp_path / "run", Watch())
    assert len(drawn) == 1


def test_a_ticket_is_validated_once_though_its_round_is_interrupted(tmp_path: Path) -> None:
    watch = Watch()
    run = resumed(Case([(PRUNED, 1, 1), (PRUNED, 2, 1)]), tmp_path / "run", watch)
    assert watch._validations.count("validate") == 3  # both tickets, and the mask as it was drawn
    assert all(result.start["val_loss"] for result in run.results)


STOPPING = Case(
    [],
    callbacks=lambda: [pl.callbacks.EarlyStopping("val_loss", min_delta=100, patience=1)],
)


def test_a_fit_that_stopped_early_does_not_train_on(tmp_path: Path) -> None:
    whole = once(STOPPING, tmp_path / "whole", Watch())
    watch = Watch()
    watch.interrupt(PRUNED, -1, -2)  # between the end of the fit and the result
    with pytest.raises(Interrupted):
        once(STOPPING, tmp_path / "run", watch)
    run = once(STOPPING, tmp_path / "run", watch)
    assert [r.steps for r in run.results] == [2 * BATCHES] * 2
    assert watch.names == [DENSE, PRUNED, *watch.names[2:]]
    assert not [step for fit in watch._fits[2:] for step in fit.steps]
    assert bits(run.path) == bits(whole.path)
    assert measured(run) == measured(whole)


def test_a_fit_interrupted_after_its_last_epoch_trains_nothing_more(tmp_path: Path) -> None:
    whole = once(Case([]), tmp_path / "whole", Watch())
    watch = Watch()
    watch.interrupt(DENSE, -1, -2)
    with pytest.raises(Interrupted):
        once(Case([]), tmp_path / "run", watch)
    run = once(Case([]), tmp_path / "run", watch)
    assert watch.of(PRUNED).steps
    assert not [step for fit in watch._fits[1:] if fit.name == DENSE for step in fit.steps]
    assert bits(run.path) == bits(whole.path)
    assert measured(run) == measured(whole)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, share: float) -> None:
    whole = once(Case([]), tmp_path / "whole", Watch())
    watch = Watch()
    watch.interrupt(PRUNED, 2, 1)
    with pytest.raises(Interrupted):
        once(Case([]), tmp_path / "run", watch)
    path = tmp_path / "run" / PRUNED / "checkpoints/last.ckpt"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.warns(UserWarning, match="last.ckpt cannot be read"):
        run = once(Case([]), tmp_path / "run", watch)
    assert watch.of(PRUNED).step == 0
    assert bits(run.path) == bits(whole.path)
    assert measured(run) == measured(whole)
    assert rows(run.path / PRUNED) == rows(whole.path / PRUNED)
    assert shown(run.path / PRUNED) == shown(whole.path / PRUNED)


def test_no_step_is_logged_twice(tmp_path: Path) -> None:
    case = Case([(DENSE, 1, 3), (PRUNED, 1, 2), (PRUNED, 2, 1)], options=EVERY_3)
    run = resumed(case, tmp_path / "run", Watch())
    for level in (DENSE, PRUNED):
        steps = [int(row["step"]) for row in rows(run.path / level)]
        assert steps == sorted(set(steps)) == list(range(BATCHES * EPOCHS + 1))
        found = shown(run.path / level)
        for tag in ("train_loss", "val_loss", "val_acc", "test_loss"):
            steps = [step for step, _ in found[tag]]
            assert steps == sorted(set(steps))
        assert len(found["train_loss"]) == BATCHES * EPOCHS
        assert len(found["val_loss"]) == EPOCHS + 1


def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    whole = once(Case([]), tmp_path / "whole", Watch())
    watch = Watch()
    watch.interrupt(PRUNED, 2, 1)
    with pytest.raises(Interrupted):
        once(Case([]), tmp_path / "run", watch)
    with (tmp_path / "run" / PRUNED / "metrics.csv").open("a") as file:
        file.write("7,1")
    run = once(Case([]), tmp_path / "run", watch)
    assert rows(run.path / PRUNED) == rows(whole.path / PRUNED)


def test_a_round_does_not_start_from_what_another_left(tmp_path: Path) -> None:
    """Lightning would load a `hpc_ckpt` that lies in the folder, and train nothing."""
    watch = Watch()
    watch.interrupt(DENSE, 1, 2)
    case = Case([], options=EVERY_3)
    with pytest.raises(Interrupted):
        once(case, tmp_path / "run", watch)
    dense = tmp_path / "run" / DENSE
    (dense / "checkpoints/last.ckpt").rename(dense / "hpc_ckpt_1.ckpt")
    run = once(case, tmp_path / "run", watch)
    assert [(f.name, f.step) for f in watch._fits] == [(DENSE, 0), (DENSE, 6), (PRUNED, 0)]
    assert [r.steps for r in run.results] == [BATCHES * EPOCHS] * 2


def test_what_has_trained_longest_is_newest_whatever_the_clock_says(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    now = time.time()
    names = ["checkpoints/last.ckpt", "hpc_ckpt_1.ckpt", "hpc_ckpt_2.ckpt"]
    (tmp_path / "checkpoints").mkdir()
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        for age, index in enumerate(order):
            torch.save({"global_step": 100 - age}, tmp_path / names[index])
            os.utime(tmp_path / names[index], (now + 1e6 * age, now + 1e6 * age))
        assert newest_checkpoint(tmp_path) == (tmp_path / names[order[0]], 100)


def test_a_killed_process_leaves_no_torsos_for_good(tmp_path: Path) -> None:
    watch = Watch()
    watch.interrupt(PRUNED, 1, 2)
    with pytest.raises(Interrupted):
        once(Case([]), tmp_path / "run", watch)
    torso = tmp_path / "run" / PRUNED / "checkpoints/.last.ckpt.part"
    torso.write_bytes(b"half")
    run = once(Case([]), tmp_path / "run", watch)
    assert not [p for p in run.path.rglob(".*") if p.name != LOCK]
    assert not [p for p in run.path.rglob("last.ckpt")]


def test_saving_takes_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltpl.rounds.checkpoint.SHARE", 1e-9)
    saves = []
    real = pl.Trainer.save_checkpoint
    monkeypatch.setattr(
        pl.Trainer, "save_checkpoint", lambda *a, **k: saves.append(1) or real(*a, **k)
    )
    find(tmp_path / "run", levels=0, trainer={"max_epochs": 5})
    assert len(saves) == 1  # what it costs is known after the first


def test_interrupted_replicates_and_their_results_are_kept_apart(tmp_path: Path) -> None:
    case = Case([("seed_1/round_00", 1, 1)], options={"seeds": [0, 1], "levels": 0})
    whole = once(case, tmp_path / "whole", Watch())
    watch = Watch()
    run = resumed(case, tmp_path / "run", watch)
    assert watch.names == ["seed_0/round_00", "seed_1/round_00", "seed_1/round_00"]
    assert bits(run.path) == bits(whole.path)
