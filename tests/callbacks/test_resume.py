"""A fit that was interrupted and resumed ends with the bits of one that was not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from tiny import BATCHES, Resumable, Tiny, dataset, network, trainer

from ltpl.callbacks import Cubic, FreezeSparsity, PruneAtEpoch, RewindToEpoch, Trajectory

ADAM = partial(torch.optim.Adam)
STEPS = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.3)
KEEP_ALL = pytest.mark.filterwarnings("ignore:Checkpoint directory")

CYCLES = {
    "prune only": lambda: [PruneAtEpoch([1, 2, 4], 0.3)],
    "rewind": lambda: [PruneAtEpoch([2, 4], 0.3), RewindToEpoch(1)],
    "rewind to a step": lambda: [PruneAtEpoch([2, 4], 0.3), RewindToEpoch(at="1ep3it")],
    "rewind, restored": lambda: [
        PruneAtEpoch([2, 4], 0.3),
        RewindToEpoch(1, optimizer="restored"),
    ],
    "lr_rewind": lambda: [PruneAtEpoch([2, 4], 0.3), RewindToEpoch(1, policy="lr_rewind")],
    "finetune": lambda: [PruneAtEpoch([2], 0.3), RewindToEpoch(0, policy="finetune")],
    "reinit": lambda: [PruneAtEpoch([2, 4], 0.3), RewindToEpoch(0, policy="reinit")],
    "freeze at init": lambda: [PruneAtEpoch([2, 4], 0.3), RewindToEpoch(0, mask_0="freeze")],
    "reshuffle": lambda: [PruneAtEpoch([2, 4], 0.3), RewindToEpoch(0, mask_1="reshuffle")],
    "cubic": lambda: [PruneAtEpoch(Cubic(first=0, last=4), 0.6), Trajectory()],
    "movement": lambda: [PruneAtEpoch([1, 3], 0.3, criterion="movement")],
    "snip": lambda: [PruneAtEpoch([1, 3], 0.3, criterion="snip")],
    "random": lambda: [PruneAtEpoch([1, 3], 0.3, criterion="random")],
    "EMA": lambda: [
        PruneAtEpoch([2, 4], 0.3),
        RewindToEpoch(1),
        EMAWeightAveraging(decay=0.8),
    ],
}


def train(
    folder: Path, callbacks: list[Any], stop_at: int | None = None, resume: Path | None = None
) -> Tiny:
    torch.manual_seed(7)
    module = Tiny(network(norm=False), optimizer=ADAM, schedule=STEPS, lr=0.02)
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    runner = trainer(folder, [*callbacks, saver], enable_checkpointing=True)
    if stop_at is not None:
        runner.fit_loop.epoch_loop.max_steps = stop_at
    torch.manual_seed(7)
    runner.fit(module, Resumable(dataset(), batch_size=10), ckpt_path=resume)
    return module


@KEEP_ALL
@pytest.mark.parametrize("name", CYCLES)
def test_a_resumed_cycle_has_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", CYCLES[name]())
    for step in (BATCHES + 4, 2 * BATCHES, 3 * BATCHES + 1):
        folder = tmp_path / f"at{step}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ltpl.callbacks.pruning.rank_zero_warn", lambda *_: None)
            train(folder, CYCLES[name](), stop_at=step)
        resumed = train(folder, CYCLES[name](), resume=folder / f"step={step}.ckpt")
        for parameter, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[parameter]), (step, parameter)


@KEEP_ALL
def test_callback_state_loads_without_running_code(tmp_path: Path) -> None:
    train(tmp_path, CYCLES["rewind"]())
    stored = torch.load(tmp_path / f"step={5 * BATCHES}.ckpt", weights_only=True)
    states = {key: value for key, value in stored["callbacks"].items() if "Checkpoint" not in key}
    assert len(states) == 2
    bits = next(state["mask"] for state in states.values() if "mask" in state)
    assert sum(b.numel() for b in bits.values()) == sum(-(-w // 8) for w in (8 * 16, 256, 48))


@KEEP_ALL
def test_a_fit_that_was_already_finished_still_prunes_at_its_end(tmp_path: Path) -> None:
    train(tmp_path, [])
    pruner = PruneAtEpoch([5], 0.5)
    module = train(tmp_path, [pruner], resume=tmp_path / f"step={5 * BATCHES}.ckpt")
    assert pruner.mask.density == 0.5
    assert module.net[0].weight.count_nonzero() == pruner.mask["net.0.weight"].sum()


@KEEP_ALL
def test_freeze_sparsity_resumes_its_own_mask_not_what_happens_to_be_zero(tmp_path: Path) -> None:
    class Zeroed(Tiny):
        pass

    def run(freezer: FreezeSparsity, resume: Path | None = None) -> Tiny:
        torch.manual_seed(7)
        module = Zeroed(network(norm=False), optimizer=ADAM, lr=0.02)
        with torch.no_grad():
            module.net[0].weight[:, ::2] = 0
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        runner = trainer(tmp_path, [freezer, saver], enable_checkpointing=True)
        runner.fit(module, Resumable(dataset(), batch_size=10), ckpt_path=resume)
        return module

    whole = run(FreezeSparsity())
    path = tmp_path / f"step={BATCHES}.ckpt"
    stored = torch.load(path, weights_only=True)
    stored["state_dict"]["net.0.weight"][0, 1] = 0.0  # a kept weight that passes through zero
    torch.save(stored, path)
    freezer = FreezeSparsity()
    resumed = run(freezer, path)
    assert bool(freezer.mask["net.0.weight"][0, 1])
    assert resumed.net[0].weight[0, 1] != 0
    assert not resumed.net[0].weight[:, ::2].count_nonzero()
    assert not whole.net[0].weight[:, ::2].count_nonzero()


@KEEP_ALL
def test_a_missing_snapshot_is_named_when_resuming(tmp_path: Path) -> None:
    train(tmp_path, CYCLES["rewind"]())
    (tmp_path / "snapshot.safetensors").unlink()
    resume = tmp_path / f"step={3 * BATCHES}.ckpt"
    with pytest.raises(FileNotFoundError, match=r"rewinds to .*snapshot\.safetensors"):
        train(tmp_path, CYCLES["rewind"](), resume=resume)
