"""A fit whose network gets smaller, interrupted and resumed; checkpoints before and after."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_criterion import last_survive
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from shrink import BATCHES, EPOCHS, Residual, Watched, convolutional, images, loader, size
from tiny import trainer
from torch import Tensor, nn

import ltpl
from ltpl.callbacks import CompactAfterPruning, NetworkSlimming, PruneAtEpoch, RewindToEpoch

ADAM = partial(torch.optim.Adam)
STEPS = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.3)
KEEP_ALL = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory",
    "ignore:.*no gradient reaches",
    "ignore:Be aware that when using",
    "ignore:The dirpath has changed",
)


class Scaled(nn.Module):
    """A buffer that checkpoints do not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.net = convolutional()
        self.gain = nn.Parameter(torch.ones(1))
        self.register_buffer("scale", torch.linspace(1, 2, 6).view(6, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.net):
            x = layer(x) * self.scale if index == 5 else layer(x)
        return x * self.gain


def folding() -> nn.Sequential:
    """Neurons that are pruned away say sigmoid(0) to a layer without bias."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(32, 12, bias=False),
        nn.Sigmoid(),
        nn.Linear(12, 6, bias=False),
        nn.Linear(6, 3),
    )


class Decayed(Watched):
    """Weight decay for matrices and kernels only."""

    def configure_optimizers(self) -> Any:
        groups = [[p for p in self.parameters() if (p.dim() > 1) is many] for many in (True, False)]
        options = [{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "lr": 0.02}]
        return torch.optim.AdamW(options, lr=0.01)


def slim(**options: Any) -> NetworkSlimming:
    return NetworkSlimming(**{"epoch": 2, "amount": 0.5, "l1": 0.01, **options})


Make = tuple[Callable[[], list[Any]], Callable[[], Any]]
plain = partial(Watched, optimizer=ADAM, schedule=STEPS, lr=0.02)
CASES: dict[str, Make] = {
    "slimming": (lambda: [slim()], lambda: plain(convolutional())),
    "residual": (lambda: [slim(trunk="group")], lambda: plain(Residual())),
    "twice, rewound": (
        lambda: [slim(epoch=[1, 3], amount=0.3, of="remaining"), RewindToEpoch(1)],
        lambda: plain(convolutional()),
    ),
    "restored": (
        lambda: [slim(), RewindToEpoch(1, optimizer="restored")],
        lambda: plain(convolutional()),
    ),
    "EMA": (lambda: [slim(), EMAWeightAveraging(decay=0.8)], lambda: plain(convolutional())),
    "EMA, residual": (lambda: [slim(), EMAWeightAveraging(decay=0.8)], lambda: plain(Residual())),
    "a new bias": (
        lambda: [PruneAtEpoch(2, 0.5, include="net.1.weight", criterion=last_survive)],
        lambda: plain(folding()),
    ),
    "a new bias, groups": (
        lambda: [PruneAtEpoch(2, 0.5, include="net.1.weight", criterion=last_survive)],
        lambda: Decayed(folding()),
    ),
    "a buffer that is not saved": (lambda: [slim()], lambda: plain(Scaled())),
    "the callback comes first": (lambda: [slim()], lambda: plain(convolutional())),
}


SLOW = ("slimming", "restored", "EMA, residual", "the callback comes first")


def train(folder: Path, case: Make, stop_at: int | None = None, resume: Path | None = None) -> Any:
    torch.manual_seed(7)
    callbacks, module = case[0](), case[1]()
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    every = [*callbacks, CompactAfterPruning(), saver]
    if case is CASES["the callback comes first"]:
        every = [every[1], every[0], saver]
    options = {"max_epochs": EPOCHS, "num_sanity_val_steps": 0, "enable_checkpointing": True}
    module.runner = runner = trainer(folder, every, **options)
    if stop_at is not None:
        runner.fit_loop.epoch_loop.max_steps = stop_at
    runner.fit(module, loader(), loader(1), ckpt_path=resume)
    return module


@KEEP_ALL
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES]
)
def test_a_resumed_fit_has_the_same_bits(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    whole = train(tmp_path / "whole", case)
    assert size(whole) < size(case[1]())
    for step in (BATCHES + 2, 2 * BATCHES, 2 * BATCHES + 1, 3 * BATCHES + 1):
        resumed = train(tmp_path, case, resume=tmp_path / "whole" / f"step={step}.ckpt")
        expected, found = whole.state_dict(), resumed.state_dict()
        assert expected.keys() == found.keys()
        for parameter, value in expected.items():
            assert torch.equal(value, found[parameter]), (step, parameter)
        x = images(3).tensors[0]
        assert torch.equal(whole.eval().predict(x), resumed.eval().predict(x))


@KEEP_ALL
def test_a_fit_that_was_stopped_has_the_same_bits_too(tmp_path: Path) -> None:
    case = CASES["residual"]
    whole = train(tmp_path / "whole", case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltpl.callbacks.pruning.rank_zero_warn", lambda *_: None)
        train(tmp_path / "stopped", case, stop_at=2 * BATCHES + 1)
    path = tmp_path / "stopped" / f"step={2 * BATCHES + 1}.ckpt"
    resumed = train(tmp_path / "stopped", case, resume=path)
    for parameter, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[parameter]), parameter


@KEEP_ALL
def test_without_the_callback_the_checkpoint_does_not_load(tmp_path: Path) -> None:
    case = CASES["slimming"]
    train(tmp_path, case)
    runner = trainer(tmp_path, [], max_epochs=EPOCHS)
    with pytest.raises(RuntimeError, match="size mismatch"):
        runner.test(case[1](), loader(2), ckpt_path=tmp_path / f"step={3 * BATCHES}.ckpt")


@KEEP_ALL
@pytest.mark.parametrize("name", ["slimming", "residual", "a new bias", "twice, rewound"])
def test_a_later_checkpoint_is_tested_with_a_new_module(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    module = train(tmp_path, case)
    (expected,) = module.runner.test(module, loader(2), verbose=False)
    path = tmp_path / f"step={EPOCHS * BATCHES}.ckpt"
    runner = trainer(tmp_path, [CompactAfterPruning()])
    fresh = case[1]()
    assert runner.test(fresh, loader(2), ckpt_path=path, verbose=False) == [expected]
    assert size(fresh) == size(module)
    assert runner.validate(module, loader(2), ckpt_path=path, verbose=False)


@KEEP_ALL
def test_a_checkpoint_of_weights_alone(tmp_path: Path) -> None:
    case = CASES["a new bias"]
    module = case[1]()
    saver = ModelCheckpoint(tmp_path, "last", save_weights_only=True)
    callbacks = [*case[0](), CompactAfterPruning(), saver]
    runner = trainer(tmp_path, callbacks, max_epochs=EPOCHS, enable_checkpointing=True)
    runner.fit(module, loader(), loader(1))
    expected = runner.test(module, loader(2), verbose=False)
    fresh = case[1]()
    again = trainer(tmp_path, [CompactAfterPruning()])
    assert again.test(fresh, loader(2), ckpt_path=tmp_path / "last.ckpt", verbose=False) == expected


@KEEP_ALL
def test_the_best_checkpoint_from_before_is_one_clear_error(tmp_path: Path) -> None:
    module = Watched(convolutional())
    best = ModelCheckpoint(tmp_path, monitor="epoch", mode="min")
    module.log = partial(module.log, on_epoch=True)
    callbacks = [slim(epoch=1), CompactAfterPruning(), best]
    runner = trainer(tmp_path, callbacks, max_epochs=3, enable_checkpointing=True)
    runner.fit(module, loader(), loader(1))
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match="is of the network before it was compacted") as error:
        runner.test(module, loader(2), ckpt_path="best", verbose=False)
    assert "\n" not in str(error.value)
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())
    fresh = Watched(convolutional())
    again = trainer(tmp_path, [CompactAfterPruning()])
    assert again.test(fresh, loader(2), ckpt_path=best.best_model_path, verbose=False)
    assert size(fresh) == size(convolutional())


@KEEP_ALL
def test_a_checkpoint_of_another_compaction_is_one_clear_error(tmp_path: Path) -> None:
    case: Make = (
        lambda: [slim(epoch=[1, 3], amount=0.3, of="remaining")],
        lambda: plain(Residual()),
    )
    module = train(tmp_path, case)
    runner = trainer(tmp_path, [CompactAfterPruning()])
    with pytest.raises(ValueError, match="lost other channels than this module"):
        runner.test(module, loader(2), ckpt_path=tmp_path / f"step={2 * BATCHES}.ckpt")


@KEEP_ALL
def test_checkpoints_load_without_running_code(tmp_path: Path) -> None:
    train(tmp_path, CASES["residual"])
    stored = torch.load(tmp_path / f"step={3 * BATCHES}.ckpt", weights_only=True)
    assert stored["callbacks"]["CompactAfterPruning"]["path"] == "net"


@KEEP_ALL
def test_a_network_that_was_loaded_small_is_pruned_further(tmp_path: Path) -> None:
    first = train(tmp_path / "first", CASES["residual"])
    path = tmp_path / "first"

    def again() -> Watched:
        return plain(ltpl.load(path, Residual()))

    case: Make = (lambda: [slim(epoch=1, amount=0.3)], again)
    whole = train(tmp_path / "second", case)
    assert size(whole) < size(first)
    checkpoint = tmp_path / "second" / f"step={2 * BATCHES}.ckpt"
    resumed = train(tmp_path / "resumed", case, resume=checkpoint)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    stored = ltpl.load(tmp_path / "second", Residual())
    x = images(3).tensors[0]
    assert torch.equal(stored.eval()(x), whole.net.eval()(x))


@pytest.mark.slow
@KEEP_ALL
def test_another_process_tests_and_loads_it(tmp_path: Path) -> None:
    module = train(tmp_path, CASES["residual"])
    x = images(3).tensors[0]
    torch.save(module.net.eval()(x), tmp_path / "expected.pt")
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from shrink import Residual, Watched, images, loader
from tiny import trainer
import ltpl
from ltpl.callbacks import CompactAfterPruning
folder = {str(tmp_path)!r}
expected, x = torch.load(folder + "/expected.pt"), images(3).tensors[0]
module = Watched(Residual())
runner = trainer(folder, [CompactAfterPruning()])
runner.test(module, loader(2), ckpt_path=folder + "/step={EPOCHS * BATCHES}.ckpt", verbose=False)
assert torch.equal(module.net.eval()(x), expected)
assert torch.equal(ltpl.load(folder, Residual()).eval()(x), expected)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
