"""A pruner that prunes nothing but holds a mask, and a Trainer that starts inside of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from small import BATCHES, EPOCHS, Data, Small, copied

from ltpl.callbacks import PruneAtEpoch
from ltpl.callbacks.position import go_to, position
from ltpl.masks import Mask
from ltpl.masks.schedule import Never, PerRound


def fit(folder: Path, module: Any, callbacks: list[Any], go: dict[str, int] | None = None) -> Any:
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        default_root_dir=folder,
    )
    if go is not None:
        go_to(trainer, go)
    trainer.fit(module, datamodule=Data())
    return trainer


def some(module: Any) -> Mask:
    parameters = dict(module.named_parameters())
    names = ("net.0.weight", "net.4.weight")
    return Mask({name: torch.rand_like(parameters[name]) < 0.5 for name in names})


def test_never_is_never_due() -> None:
    assert not any(Never().due(epoch, ended) for epoch in range(9) for ended in (False, True))
    assert Never().progress(3) is None


def test_without_epochs_a_pruner_prunes_when_training_ends(tmp_path: Path) -> None:
    pruner, module = PruneAtEpoch(amount=0.5), Small()
    assert isinstance(pruner.schedule, PerRound)
    fit(tmp_path, module, [pruner])
    assert pruner.pruned_at == [EPOCHS]
    assert pruner.mask.kept == 45
    assert module.net[0].weight.count_nonzero() + module.net[4].weight.count_nonzero() == 45


@pytest.mark.parametrize("pinned", [False, True])
def test_a_held_mask_holds_through_the_next_fit_alone(tmp_path: Path, pinned: bool) -> None:
    module = Small()
    pruner = PruneAtEpoch(amount=0.5)
    pruner.schedule = Never()
    mask, before = some(module), copied(module)
    pruner.hold(module, mask, pinned)
    fit(tmp_path, module, [pruner])
    for name, keep in mask.items():
        after = module.state_dict()[name]
        assert torch.equal(after[~keep], before[name][~keep] * pinned)
        assert (after[keep] != before[name][keep]).any()
    assert pruner.mask is mask
    other = Small()
    fit(tmp_path, other, [pruner])
    assert pruner.mask is None
    assert all(
        other.state_dict()[name].count_nonzero() == keep.numel() for name, keep in mask.items()
    )


def test_a_mask_that_does_not_fit_is_not_held() -> None:
    with pytest.raises(ValueError, match=r"net\.9"):
        PruneAtEpoch().hold(Small(), Mask({"net.9": torch.ones(2, dtype=torch.bool)}))


def test_drawing_a_mask_binds_and_changes_nothing() -> None:
    module, pruner = Small(), PruneAtEpoch(amount=0.9)
    before = copied(module)
    mask = pruner.draw(module, 0.5, "remaining", None, 0)
    smaller = pruner.draw(module, 0.5, "remaining", mask, 0)
    assert (mask.kept, smaller.kept) == (45, 23)
    assert pruner.draw(module, 0.5, "all", mask, 0).kept == 45
    assert pruner.mask is None
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_amounts_need_as_many_epochs_unless_rounds_use_them() -> None:
    assert PruneAtEpoch(amount=[0.5, 0.2]).amounts == [0.5, 0.2]
    with pytest.raises(ValueError, match="gives 2 amounts"):
        PruneAtEpoch(epochs=[1], amount=[0.5, 0.2])


class Where(pl.Callback):
    def __init__(self) -> None:
        self.at: list[dict[str, int]] = []
        self.steps: list[tuple[int, int, int]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.at.append({**position(trainer), "hook": -1})

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.at.append(position(trainer))
        self.steps.append((trainer.current_epoch, batch_idx, trainer.global_step))


def test_positions_count_what_is_trained(tmp_path: Path) -> None:
    where = Where()
    fit(tmp_path, Small(), [where])
    expected = []
    for epoch in range(EPOCHS):
        for batch in range(BATCHES):
            done = epoch * BATCHES + batch
            counts = {"batches": batch, "all_batches": done, "steps": done, "logged": done}
            if not batch:
                expected.append({"epoch": epoch, **counts, "hook": -1})
            expected.append({"epoch": epoch, **counts})
    assert where.at == expected


@pytest.mark.parametrize("epoch", range(EPOCHS))
def test_a_trainer_goes_to_the_start_of_an_epoch(tmp_path: Path, epoch: int) -> None:
    done = epoch * BATCHES
    there = {"epoch": epoch, "batches": 0, "all_batches": done, "steps": done, "logged": done}
    where = Where()
    trainer = fit(tmp_path, Small(), [where], there)
    assert where.steps == [(n // BATCHES, n % BATCHES, n) for n in range(done, EPOCHS * BATCHES)]
    assert where.at[1] == there
    assert (trainer.current_epoch, trainer.global_step) == (EPOCHS, EPOCHS * BATCHES)
