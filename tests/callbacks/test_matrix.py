"""Every way to train that the callbacks claim to support, against masking written by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from pytorch_lightning.plugins.precision import MixedPrecision
from tiny import (
    AMOUNT,
    PRUNE_AT,
    ByHand,
    Checkpointed,
    Tiny,
    TwoOptimizers,
    ZeroAfterEachStep,
    loader,
    network,
    split_optimizers,
    tied_network,
    trainer,
)
from torch import nn

from ltpl.callbacks import PruneAtEpoch

SGD = partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=1e-2)
ADAM = partial(torch.optim.Adam, weight_decay=1e-2)


@dataclass
class Cell:
    optimizer: Callable[..., torch.optim.Optimizer] = SGD
    net: Callable[[], nn.Module] = network
    module: type[Tiny] = Tiny
    options: dict[str, Any] = field(default_factory=dict)
    by_hand: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Any]] = list
    compiled: bool = False
    lr: float = 0.05


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=1024.0)


def fp16() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", scaler=scaler())


class Clipped(TwoOptimizers):
    clip = 0.05


DYNAMO_NOISE = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
plain = partial(network, norm=False)
CELLS = {
    "sgd": Cell(torch.optim.SGD),
    "sgd, momentum, nesterov, weight decay": Cell(),
    "sgd, foreach": Cell(partial(SGD, foreach=True)),
    "sgd, fused": Cell(partial(SGD, fused=True)),
    "adam": Cell(ADAM),
    "adam, amsgrad": Cell(partial(ADAM, amsgrad=True)),
    "adam, foreach": Cell(partial(ADAM, foreach=True)),
    "adamw, fused": Cell(partial(torch.optim.AdamW, fused=True)),
    "rmsprop, momentum": Cell(partial(torch.optim.RMSprop, momentum=0.5), lr=0.005),
    "adagrad, slots start above zero": Cell(
        partial(torch.optim.Adagrad, initial_accumulator_value=0.1)
    ),
    "rprop": Cell(torch.optim.Rprop, lr=0.01),
    "accumulation": Cell(options={"accumulate_grad_batches": 2}, by_hand={"accumulate": 2}),
    "accumulation, incomplete last": Cell(
        options={"accumulate_grad_batches": 4}, by_hand={"accumulate": 4}
    ),
    "clip by norm": Cell(options={"gradient_clip_val": 0.05}, by_hand={"clip_norm": 0.05}),
    "clip by value": Cell(
        options={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        by_hand={"clip_value": 0.01},
    ),
    "bf16-mixed": Cell(options={"precision": "bf16-mixed"}, by_hand={"autocast": torch.bfloat16}),
    "16-mixed": Cell(
        options={"plugins": fp16},
        by_hand={"autocast": torch.float16, "scaler": scaler},
    ),
    "16-mixed, accumulation, clip by norm": Cell(
        ADAM,
        options={"plugins": fp16, "accumulate_grad_batches": 2, "gradient_clip_val": 0.05},
        by_hand={
            "autocast": torch.float16,
            "scaler": scaler,
            "accumulate": 2,
            "clip_norm": 0.05,
        },
    ),
    "several optimisers, manual": Cell(ADAM, module=TwoOptimizers),
    "several optimisers, manual, clip by norm": Cell(
        ADAM, module=Clipped, by_hand={"clip_norm": 0.05}
    ),
    "torch.compile": Cell(compiled=True),
    "gradient checkpointing": Cell(net=Checkpointed),
    "tied weights": Cell(net=tied_network),
    "EMA": Cell(
        net=plain,
        callbacks=lambda: [EMAWeightAveraging(decay=0.8)],
        by_hand={"ema_decay": 0.8},
    ),
    "SWA": Cell(
        net=plain,
        callbacks=lambda: [StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2)],
        by_hand={"swa_from": 1},
    ),
}


@pytest.mark.parametrize("pruner_first", [True, False], ids=["pruner first", "pruner last"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=DYNAMO_NOISE if cell.compiled else ()) for n, cell in CELLS.items()],
)
def test_training_under_a_mask_equals_masking_by_hand(
    name: str, pruner_first: bool, tmp_path: Any
) -> None:
    cell = CELLS[name]
    net = cell.net()
    twin = copy.deepcopy(net)
    pruner = PruneAtEpoch(epochs=PRUNE_AT, amount=AMOUNT)
    watch = ZeroAfterEachStep(pruner)
    others = cell.callbacks()
    callbacks = [pruner, *others] if pruner_first else [*others, pruner]
    module = cell.module(net, cell.optimizer, lr=cell.lr)
    fitted = torch.compile(module, backend="aot_eager") if cell.compiled else module
    options = {k: v() if callable(v) else v for k, v in cell.options.items()}
    trainer(tmp_path, [*callbacks, watch], **options).fit(fitted, loader())

    if cell.module is Tiny:
        optimizers = [cell.optimizer(twin.parameters(), lr=cell.lr)]
    else:
        optimizers = split_optimizers(twin, cell.optimizer, cell.lr)
    given = {k: v() if callable(v) else v for k, v in cell.by_hand.items()}
    hand = ByHand(twin, optimizers, **given)
    expected = hand.fit()

    for weight_name, mask in hand.masks.items():
        assert torch.equal(pruner.mask[f"net.{weight_name}"], mask.bool())
    for weight_name, weight in net.named_parameters():
        torch.testing.assert_close(weight, expected[weight_name], rtol=0, atol=1e-6)
    assert watch.steps > 0
