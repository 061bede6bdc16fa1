"""What goes on after channels were pruned: rewinding, resuming, the next round."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from slim import fit, network
from tiny import BATCHES, Resumable, Tiny, dataset, loader, trainer

from ltpl import find_tickets
from ltpl.callbacks import NetworkSlimming, RewindToEpoch

HOLDS = "ignore:min_keep=.* holds channels back"
KEEP_ALL = pytest.mark.filterwarnings("ignore:Checkpoint directory")


@pytest.mark.parametrize("step", ["subgradient", "proximal"])
@pytest.mark.parametrize("mask_0", ["zero", "freeze"])
def test_rewinding_after_slimming(step: str, mask_0: str, tmp_path: Path) -> None:
    net = network()
    start = copy.deepcopy(net)
    rewind = RewindToEpoch(0, mask_0=mask_0)
    slimming = NetworkSlimming(0.1, 0.5, 2, step, penalty_after=True)

    class Restarted(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.current_epoch == 2 and not hasattr(self, "weights"):
                self.weights = {n: p.detach().clone() for n, p in pl_module.named_parameters()}

    seen = Restarted()
    module = fit(tmp_path, slimming, rewind, seen, module=Tiny(net, partial(torch.optim.Adam)))
    for name, value in start.named_parameters():
        keep = slimming.mask.get(f"net.{name}", torch.ones_like(value, dtype=torch.bool))
        at_start = value.detach() * (keep | (mask_0 == "freeze"))
        assert torch.equal(seen.weights[f"net.{name}"], at_start)
        now = module.net.get_parameter(name)
        assert torch.equal(now[~keep], at_start[~keep])
        assert not torch.equal(now[keep], at_start[keep])


RESUMED = {
    "subgradient": lambda: [NetworkSlimming(0.02, 0.5, 3)],
    "proximal": lambda: [NetworkSlimming(0.02, 0.5, 3, "proximal", penalty_after=True)],
    "several": lambda: [NetworkSlimming(0.02, 0.3, [1, 3, 4], of="remaining")],
    "penalty after": lambda: [NetworkSlimming(0.02, 0.5, 2, penalty_after=True)],
    "another prunes": lambda: [
        NetworkSlimming(0.02, None),
        NetworkSlimming(0.0, 0.5, 2, include="net.*"),
    ],
    "taylor": lambda: [NetworkSlimming(0.02, 0.5, 2, score="taylor")],
    "rewound": lambda: [NetworkSlimming(0.02, 0.5, 2), RewindToEpoch(1)],
}


def train(
    folder: Path, callbacks: list[Any], stop_at: int | None = None, resume: Path | None = None
) -> Tiny:
    torch.manual_seed(7)
    schedule = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.3)
    module = Tiny(network(), optimizer=torch.optim.Adam, schedule=schedule, lr=0.02)
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    runner = trainer(folder, [*callbacks, saver], enable_checkpointing=True)
    if stop_at is not None:
        runner.fit_loop.epoch_loop.max_steps = stop_at
    runner.fit(module, Resumable(dataset(), batch_size=10), ckpt_path=resume)
    return module


@KEEP_ALL
@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_fit_has_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", RESUMED[name]())
    for step in (BATCHES + 4, 3 * BATCHES + 1):
        folder = tmp_path / f"at{step}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ltpl.callbacks.pruning.rank_zero_warn", lambda *_: None)
            train(folder, RESUMED[name](), stop_at=step)
        resumed = train(folder, RESUMED[name](), resume=folder / f"step={step}.ckpt")
        for parameter, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[parameter]), (step, parameter)


def test_it_can_be_pickled_after_a_fit(tmp_path: Path) -> None:
    slimming = NetworkSlimming(step="proximal", amount=0.5)
    fit(tmp_path, slimming, max_epochs=1)
    assert pickle.loads(pickle.dumps(slimming)).mask == slimming.mask


@pytest.mark.filterwarnings(HOLDS)
def test_rounds_prune_channels_too(tmp_path: Path) -> None:
    class Brings(Tiny):
        def train_dataloader(self) -> Any:
            return loader()

    run = find_tickets(
        lambda: Brings(network()),
        run=tmp_path / "run",
        levels=2,
        prune=NetworkSlimming(amount=0.5, of="remaining"),
        trainer={"max_epochs": 1, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1},
        report=False,
        quiet=True,
    )
    assert [run.ticket(level).mask.kept for level in (1, 2)] == [28, 14]
