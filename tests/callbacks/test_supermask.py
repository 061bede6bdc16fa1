"""A mask is trained and no weight is: as by hand, resumed exactly, and in a round."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from tiny import (
    BATCHES,
    EPOCHS,
    Resumable,
    Tiny,
    TwoOptimizers,
    dataset,
    loader,
    network,
    trainer,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ltpl.callbacks import FreezeSparsity, PruneAtEpoch, Supermask
from ltpl.callbacks.supermask import FILE
from ltpl.masks import Mask
from ltpl.masks.supermask import SPREAD, _generator

KEEP_ALL = pytest.mark.filterwarnings("ignore:Checkpoint directory")


class StraightThrough(torch.autograd.Function):
    """A mask that is one where a draw is below a probability; backward, the probability itself."""

    @staticmethod
    def forward(ctx: Any, probability: Tensor, draw: Tensor) -> Tensor:
        return (draw < probability).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def by_hand(net: nn.Module, options: dict[str, Any], accumulate: int) -> dict[str, Tensor]:
    """Training of a supermask in plain torch; return what the network is when it has ended."""
    weights = {n: p.detach().clone() for n, p in net.named_parameters() if p.dim() > 1}
    others = [p for p in net.parameters() if p.dim() == 1]
    if options.get("weights") == "signed_constant":
        weights = {n: w.sign() * w.std(correction=0) for n, w in weights.items()}
    start = _generator(torch.device("cpu"), "scores", 0, 0)
    scores = {n: SPREAD * torch.randn(w.shape, generator=start) for n, w in weights.items()}
    fixed = {n: torch.zeros(()) for n in weights}
    if options.get("mask") != "threshold" and options.get("fixed") != "positive":
        fixed = {n: torch.rand(w.shape, generator=start).logit() for n, w in weights.items()}
    learned = [score.requires_grad_() for score in scores.values()]
    sgd = options.get("optimizer") != "adam"
    of_scores = torch.optim.SGD(learned, 5.0, 0.9) if sgd else torch.optim.Adam(learned, 0.1)
    of_others = torch.optim.SGD(others, lr=0.1)

    def masked(mask: Tensor, name: str) -> Tensor:
        ratio = mask.numel() / mask.detach().sum() if options.get("rescale") else 1.0
        return weights[name] * ratio * mask

    batches, step = list(loader()), 0
    for _ in range(EPOCHS):
        for number, (x, y) in enumerate(batches):
            chance = _generator(torch.device("cpu"), step, 0, 0)
            seen = {}
            for name, score in scores.items():
                draw = torch.full(score.shape, 0.5)
                if options.get("mask") != "threshold":
                    draw = torch.rand(score.shape, generator=chance)
                seen[name] = masked(StraightThrough.apply(score.sigmoid(), draw), name)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.get("bf16", False)):
                loss = cross_entropy(torch.func.functional_call(net, seen, x), y) / accumulate
            loss.backward()
            step += 1
            if (number + 1) % accumulate and number + 1 < len(batches):
                continue
            of_scores.step(), of_scores.zero_grad()
            if options.get("others") == "trained":
                of_others.step()
            of_others.zero_grad()
    return {n: masked((s.detach() > fixed[n]).float(), n) for n, s in scores.items()}


@pytest.mark.parametrize(
    ("options", "accumulate"),
    [
        ({}, 1),
        ({"fixed": "positive", "others": "trained"}, 4),
        ({"weights": "signed_constant", "rescale": True}, 1),
        ({"mask": "threshold", "optimizer": "adam"}, 1),
        ({"bf16": True}, 4),
    ],
    ids=str,
)
def test_training_has_the_bits_of_a_loop_by_hand(
    options: dict[str, Any], accumulate: int, tmp_path: Path
) -> None:
    module = Tiny(network())
    twin = copy.deepcopy(module.net)
    precision = "bf16-mixed" if "bf16" in options else "32-true"
    given = {name: value for name, value in options.items() if name != "bf16"}
    supermask = Supermask(lr=0.1 if options.get("optimizer") == "adam" else 5.0, **given)
    fit = trainer(tmp_path, [supermask], accumulate_grad_batches=accumulate, precision=precision)
    fit.fit(module, loader())
    expected = by_hand(twin, options, accumulate)
    for name, weight in expected.items():
        assert torch.equal(module.net.get_parameter(name), weight), name
        assert 0.2 < (weight != 0).float().mean() < 0.8
    for name, parameter in twin.named_parameters():  # biases and BatchNorm
        if parameter.dim() == 1:
            assert torch.equal(module.net.get_parameter(name), parameter), name


def test_what_is_left_is_the_initial_weights_under_the_mask_that_is_stored(tmp_path: Path) -> None:
    module, supermask = Tiny(network(), optimizer=torch.optim.AdamW), Supermask(lr=5.0)
    before = copy.deepcopy(module.state_dict())
    seen: list[bool] = []

    class Look(pl.Callback):
        """Between steps, the module is the supermask, whenever it is looked at."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            weight = pl_module.net[0].weight
            seen.append(
                torch.equal(weight, before["net.0.weight"] * supermask.mask["net.0.weight"])
            )

    fit = trainer(tmp_path, [Look(), supermask])
    fit.fit(module, loader())
    assert seen == [True] * EPOCHS
    mask = Mask.load(tmp_path / FILE)
    assert mask == supermask.mask
    assert fit.logged_metrics["supermask/density"] == pytest.approx(mask.density)
    after = module.state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(after[name], value * mask[name] if name in mask else value), name


def test_exactly_the_share_that_is_asked_for_is_left_out(tmp_path: Path) -> None:
    module = Tiny(network())
    supermask = Supermask(lr=0.01, optimizer="adam", mask="threshold", amount=0.7)
    trainer(tmp_path, [supermask]).fit(module, loader())
    for row in supermask.mask.table():
        assert row.kept == row.total - round(0.7 * row.total)
        weight = module.get_parameter(row.name)
        assert weight.count_nonzero() == row.kept


def test_only_what_is_included_is_masked(tmp_path: Path) -> None:
    module = Tiny(network())
    last = module.net[4].weight.detach().clone()
    trained = Supermask(lr=5.0, exclude="net.4.*", others="trained")
    trainer(tmp_path, [trained]).fit(module, loader())
    assert module.net[4].weight.count_nonzero() == last.numel()
    assert not torch.equal(module.net[4].weight, last)
    assert "net.4.weight" not in trained.mask


@KEEP_ALL
def test_a_resumed_fit_has_the_same_bits(tmp_path: Path) -> None:
    def train(folder: Path, stop_at: int = -1, resume: Path | None = None) -> dict[str, Tensor]:
        torch.manual_seed(7)
        supermask = Supermask(lr=1.0, others="trained", weights="signed_constant", rescale=True)
        saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        runner = trainer(folder, [supermask, saver], enable_checkpointing=True)
        if stop_at > 0:
            runner.fit_loop.epoch_loop.max_steps = stop_at
        module = Tiny(network())
        runner.fit(module, Resumable(dataset(), batch_size=10), ckpt_path=resume)
        assert torch.equal(module.net[0].weight != 0, Mask.load(folder / FILE)["net.0.weight"])
        return module.state_dict()

    whole = train(tmp_path / "whole")
    step = BATCHES + 4
    train(tmp_path / "part", stop_at=step)
    path = tmp_path / "part" / f"step={step}.ckpt"
    assert torch.load(path, weights_only=True)["state_dict"].keys() == whole.keys()
    resumed = train(tmp_path / "part", resume=path)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    (tmp_path / "part" / FILE).unlink()
    train(tmp_path / "part", resume=tmp_path / "part" / f"step={EPOCHS * BATCHES}.ckpt")


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_a_module_of_either_package_is_masked(package: str, tmp_path: Path) -> None:
    lightning = pytest.importorskip(package)
    boring = importlib.import_module(f"{package}.demos.boring_classes").BoringModel()
    before = boring.layer.weight.detach().clone()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    fit = lightning.Trainer(
        max_steps=3, accelerator="cpu", default_root_dir=tmp_path, limit_val_batches=1, **quiet
    )
    fit.callbacks.insert(0, supermask := Supermask(lr=1.0))
    fit.fit(boring)
    assert torch.equal(boring.layer.weight, before * supermask.mask["layer.weight"])
    assert 0 < supermask.mask.density < 1


@pytest.mark.parametrize(
    ("module", "callbacks", "options", "said"),
    [
        (TwoOptimizers, [], {}, "manual optimisation"),
        (Tiny, [PruneAtEpoch(1)], {}, "beside PruneAtEpoch"),
        (Tiny, [FreezeSparsity()], {}, "beside FreezeSparsity"),
        (Tiny, [EMAWeightAveraging()], {}, "average"),
        (lambda: Tiny(optimizer=torch.optim.LBFGS), [], {}, "LBFGS"),
    ],
)
def test_what_cannot_be_right_is_refused(
    module: Any, callbacks: list[Any], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    fit = trainer(tmp_path, [*callbacks, Supermask()], **options)
    with pytest.raises(ValueError, match=said) as told:
        fit.fit(module(), loader())
    assert "\n" not in str(told.value)


def test_a_mask_is_asked_for_too_early() -> None:
    with pytest.raises(ValueError, match="fit first"):
        _ = Supermask().mask
