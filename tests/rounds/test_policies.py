"""Where each round starts: weights, optimiser, schedule and counters, for every policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from small import BATCHES, EPOCHS, Small, Watch, find, part, same
from torch import nn
from torch.nn.functional import cross_entropy

from ltpl.rounds.find import Run
from ltpl.tickets import Snapshot

STEPS = BATCHES * EPOCHS
LATE = [("1ep", 4), ("1ep2it", 6), ("5it", 5), ("1ep3it", 7)]


def rounds(tmp_path: Path, levels: int = 1, **rewind: Any) -> tuple[Run, Watch]:
    watch = Watch(keep_weights=True)
    return find(tmp_path / "run", watch, levels=levels, rewind=rewind), watch


def masked(weights: dict[str, torch.Tensor], mask: Any) -> dict[str, torch.Tensor]:
    return {name: t * mask[name] if name in mask else t for name, t in weights.items()}


def final(run: Run, level: int) -> dict[str, torch.Tensor]:
    snapshot = Snapshot.load(run.path / f"seed_0/round_{level:02}/final.safetensors")
    return {**snapshot.weights, **snapshot.buffers}


def test_rewound_to_the_start_each_round_begins_with_the_initial_weights(tmp_path: Path) -> None:
    run, watch = rounds(tmp_path, levels=2)
    dense = watch.of("seed_0/round_00")
    for level in (1, 2):
        fit = watch.of(f"seed_0/round_{level:02}")
        start = masked(dense.weights, run.mask(level))
        assert fit.weights.keys() == start.keys()
        assert all(torch.equal(fit.weights[n], start[n]) for n in start)
        assert fit.slots == []
        assert (fit.step, fit.steps, fit.lr) == (0, dense.steps, dense.lr)
        assert all(torch.equal(a, b) for a, b in zip(fit.inputs[:1], dense.inputs[:1], strict=True))
        assert fit.numbers == dense.numbers


class Plain(Small):
    """Without dropout: by hand, only the order of the data matters."""

    def __init__(self) -> None:
        super().__init__()
        self.net[3] = nn.Identity()


def test_a_round_is_the_training_that_one_would_write_by_hand(tmp_path: Path) -> None:
    watch = Watch(keep_weights=True)
    run = find(tmp_path / "run", watch, Plain, levels=2)
    targets = part(0).tensors[1]
    for level in (0, 1, 2):
        fit, mask = watch.of(f"seed_0/round_{level:02}"), run.mask(level)
        module = Plain()
        module.load_state_dict(masked(watch.of("seed_0/round_00").weights, mask))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        parameters = dict(module.named_parameters())
        for number, (x, who) in enumerate(zip(fit.inputs, fit.numbers, strict=True)):
            optimizer.param_groups[0]["lr"] = 0.1 * 0.5 ** (number // BATCHES)
            optimizer.zero_grad()
            cross_entropy(module.net(x), targets[who]).backward()
            for name, keep in mask.items():
                parameters[name].grad *= keep
            optimizer.step()
        for name, value in module.state_dict().items():
            torch.testing.assert_close(final(run, level)[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["fresh", "restored"])
@pytest.mark.parametrize(("moment", "step"), LATE)
def test_a_late_rewind_goes_on_from_that_step_of_the_dense_training(
    tmp_path: Path, moment: str, step: int, optimizer: str
) -> None:
    run, watch = rounds(tmp_path, at=moment, optimizer=optimizer)
    dense, fit = watch.of("seed_0/round_00"), watch.of("seed_0/round_01")
    mask = run.mask(1)
    assert same(fit.weights, masked(dense.alive[step - 1], mask))
    assert fit.steps == list(range(step, STEPS))
    assert fit.epochs == dense.epochs[step:]
    assert fit.lr == dense.lr[step:]
    assert fit.numbers == dense.numbers[step:]
    assert [r.steps for r in run.results] == [STEPS, STEPS]
    if optimizer == "fresh":
        assert fit.slots == []
    else:
        names = [name for name, _ in Small().named_parameters()]
        assert len(fit.slots) == len(names)
        for name, slot, then in zip(names, fit.slots, dense.momenta[step - 1], strict=True):
            keep = mask[name] if name in mask else torch.ones_like(slot).bool()
            assert torch.equal(slot[keep], then[keep])


def test_a_late_rewind_starts_from_a_copy_that_no_round_changes(tmp_path: Path) -> None:
    run, watch = rounds(tmp_path, levels=3, at="1ep", optimizer="restored")
    dense = watch.of("seed_0/round_00")
    for level in (1, 2, 3):
        fit = watch.of(f"seed_0/round_{level:02}")
        assert same(fit.weights, masked(dense.alive[BATCHES - 1], run.mask(level)))


def test_an_epoch_that_is_rewound_to_has_the_randomness_of_the_dense_training(
    tmp_path: Path,
) -> None:
    _, watch = rounds(tmp_path, at="2ep")
    dense, fit = watch.of("seed_0/round_00"), watch.of("seed_0/round_01")
    assert torch.equal(fit.inputs[0], dense.inputs[2 * BATCHES])


@pytest.mark.parametrize(("moment", "step"), [("0ep", 0), ("1ep2it", 6)])
def test_learning_rate_rewinding_keeps_the_trained_weights(
    tmp_path: Path, moment: str, step: int
) -> None:
    run, watch = rounds(tmp_path, levels=2, policy="lr_rewind", at=moment)
    dense = watch.of("seed_0/round_00")
    for level in (1, 2):
        fit = watch.of(f"seed_0/round_{level:02}")
        assert same(fit.weights, masked(final(run, level - 1), run.mask(level)))
        assert (fit.lr, fit.steps) == (dense.lr[step:], dense.steps[step:])
        assert fit.slots == []


class Steps(Small):
    """The schedule has ended before training does."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], 0.1)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def test_fine_tuning_goes_on_at_the_last_learning_rate(tmp_path: Path) -> None:
    watch = Watch()
    run = find(tmp_path / "run", watch, Steps, levels=2, rewind={"policy": "finetune"})
    last = watch.of("seed_0/round_00").lr[-1]
    for level in (1, 2):
        fit = watch.of(f"seed_0/round_{level:02}")
        assert fit.lr == [last] * len(fit.lr)
        assert same(fit.weights, masked(final(run, level - 1), run.mask(level)))
        assert fit.slots == []


class Cosine(Small):
    """When training has ended, the schedule is one step ahead: at zero."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)]


def test_fine_tuning_after_a_cosine_schedule_still_trains(tmp_path: Path) -> None:
    watch = Watch()
    find(tmp_path / "run", watch, Cosine, rewind={"policy": "finetune"})
    last = watch.of("seed_0/round_00").lr[-1]
    assert watch.of("seed_0/round_01").lr == [last] * STEPS


def test_fine_tuning_from_a_point_trains_the_rest_of_the_epochs(tmp_path: Path) -> None:
    _, watch = rounds(tmp_path, policy="finetune", at="1ep")
    fit = watch.of("seed_0/round_01")
    assert fit.steps == list(range(BATCHES, STEPS))


def test_reinitialised_weights_are_others_under_the_same_mask(tmp_path: Path) -> None:
    rewound, _ = rounds(tmp_path / "rewind")
    run, watch = rounds(tmp_path / "reinit", policy="reinit", levels=2)
    dense = watch.of("seed_0/round_00")
    assert run.mask(1).digest == rewound.mask(1).digest
    starts = [watch.of(f"seed_0/round_{level:02}").weights for level in (1, 2)]
    for level, start in enumerate(starts, 1):
        for name, keep in run.mask(level).items():
            assert (start[name][keep] != dense.weights[name][keep]).all()
            assert not start[name][~keep].count_nonzero()
    both = run.mask(2)["net.0.weight"]
    assert (starts[0]["net.0.weight"][both] != starts[1]["net.0.weight"][both]).all()
    assert watch.of("seed_0/round_01").lr == dense.lr


def test_continued_training_keeps_weights_and_restarts_the_schedule(tmp_path: Path) -> None:
    run, watch = rounds(tmp_path, levels=2, policy="continue")
    dense = watch.of("seed_0/round_00")
    for level in (1, 2):
        fit = watch.of(f"seed_0/round_{level:02}")
        assert same(fit.weights, masked(final(run, level - 1), run.mask(level)))
        assert (fit.steps, fit.lr, fit.slots) == (dense.steps, dense.lr, [])


def test_kept_weights_start_from_their_signs(tmp_path: Path) -> None:
    run, watch = rounds(tmp_path, mask_1="sign_constant")
    dense, fit = watch.of("seed_0/round_00"), watch.of("seed_0/round_01")
    for name, keep in run.mask(1).items():
        initial = dense.weights[name]
        expected = initial.sign() * initial.std(correction=0) * keep
        torch.testing.assert_close(fit.weights[name], expected)


def test_kept_weights_start_reshuffled_and_otherwise_in_each_round(tmp_path: Path) -> None:
    run, watch = rounds(tmp_path, mask_1="reshuffle")
    dense, fit = watch.of("seed_0/round_00"), watch.of("seed_0/round_01")
    for name, keep in run.mask(1).items():
        initial, start = dense.weights[name][keep], fit.weights[name][keep]
        assert torch.equal(initial.sort().values, start.sort().values)
        assert not torch.equal(initial, start)


def test_kept_weights_start_from_a_new_draw(tmp_path: Path) -> None:
    run, watch = rounds(tmp_path, mask_1="reinit", at="1ep")
    dense, fit = watch.of("seed_0/round_00"), watch.of("seed_0/round_01")
    for name, keep in run.mask(1).items():
        assert (fit.weights[name][keep] != dense.alive[BATCHES - 1][name][keep]).all()
    assert fit.lr == dense.lr[BATCHES:]


@pytest.mark.parametrize(("moment", "step"), [("0ep", 0), ("1ep", 4)])
def test_pruned_weights_stay_frozen_where_they_were(tmp_path: Path, moment: str, step: int) -> None:
    run, watch = rounds(tmp_path, levels=2, mask_0="freeze", at=moment)
    dense = watch.of("seed_0/round_00")
    values = dense.alive[step - 1] if step else dense.weights
    for level in (1, 2):
        fit = watch.of(f"seed_0/round_{level:02}")
        for name, keep in run.mask(level).items():
            for weights in (fit.weights, *fit.alive, final(run, level)):
                assert torch.equal(weights[name][~keep], values[name][~keep])
            assert values[name][~keep].count_nonzero()
            assert (final(run, level)[name][keep] != values[name][keep]).any()


class AcrossOneCycle(Small):
    """A schedule that knows how long training is."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


@pytest.mark.parametrize(("moment", "step"), [("0ep", 0), *LATE[:3]])
def test_a_cycle_over_all_steps_is_as_long_in_every_round(
    tmp_path: Path, moment: str, step: int
) -> None:
    watch = Watch()
    find(tmp_path / "run", watch, AcrossOneCycle, levels=2, rewind={"at": moment})
    dense = watch.of("seed_0/round_00")
    assert len(set(dense.lr)) == STEPS
    for level in (1, 2):
        assert watch.of(f"seed_0/round_{level:02}").lr == dense.lr[step:]


def test_early_stopping_and_best_checkpoints_start_anew_in_each_round(tmp_path: Path) -> None:
    stopping = pl.callbacks.EarlyStopping("val_loss", min_delta=100, patience=1)
    best = pl.callbacks.ModelCheckpoint(monitor="val_loss")
    watch = Watch()
    run = find(tmp_path / "run", watch, callbacks=[stopping, best], levels=2)
    assert [r.steps for r in run.results] == [2 * BATCHES] * 3
    folders = {str(Path(p).parent) for p in tmp_path.rglob("epoch*.ckpt")}
    assert len(folders) == 3


def test_every_round_has_a_trainer_of_its_own(tmp_path: Path) -> None:
    _, watch = rounds(tmp_path, levels=2)
    assert watch.names == [f"seed_0/round_0{level}" for level in range(3)]
    assert len({id(fit.trainer) for fit in watch._fits}) == 3


def test_max_steps_counts_on_from_the_rewinding_point(tmp_path: Path) -> None:
    watch = Watch()
    options = {"max_steps": 7, "max_epochs": -1}
    run = find(tmp_path / "run", watch, trainer=options, rewind={"at": "5it"})
    assert [r.steps for r in run.results] == [7, 7]
    assert watch.of("seed_0/round_01").steps == [5, 6]
