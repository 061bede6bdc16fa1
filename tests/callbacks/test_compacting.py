"""`CompactAfterPruning`: the fit goes on as the masked one, only smaller."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from shrink import (
    Residual,
    Watched,
    apart,
    both,
    convolutional,
    fit,
    images,
    size,
)
from shrink_modules import (
    ByName,
    Direct,
    Holding,
    Manual,
    Positional,
    TwoArguments,
    Wrapped,
)
from torch import nn

import ltpl
from ltpl.callbacks import (
    CompactAfterPruning,
    Cubic,
    NetworkSlimming,
    RewindToEpoch,
)

EQUAL = 1e-8
ADAM = partial(torch.optim.Adam)
MOMENTUM = partial(torch.optim.SGD, momentum=0.9, weight_decay=0.01)
STEPS = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.3)
CUT = pytest.mark.filterwarnings("ignore:.*no gradient reaches")
HOLDS = pytest.mark.filterwarnings("ignore:min_keep=.* holds channels back")


def slim(**options: Any) -> list[Any]:
    return [NetworkSlimming(**{"epoch": 1, "amount": 0.5, "l1": 0.01, **options})]


@dataclass
class Case:
    """Two fits to compare.

    Args:
        callbacks: Makes them.
        module: Makes the module.
        options: Of the Trainer.
        compact: Of `CompactAfterPruning`.
    """

    callbacks: Callable[[], list[Any]] = slim
    module: Callable[[], Any] = lambda: Watched(convolutional(), MOMENTUM)
    options: dict[str, Any] = field(default_factory=dict)
    compact: dict[str, Any] = field(default_factory=dict)


def rewound(policy: str = "rewind", **options: Any) -> list[Any]:
    return [*slim(epoch=2), RewindToEpoch(1, policy, **options)]


def twice(*others: Any, **options: Any) -> list[Any]:
    return [*slim(epoch=[1, 2], of="remaining", amount=0.3, **options), *others]


CASES = {
    "momentum": Case(),
    "adam, schedule": Case(module=lambda: Watched(convolutional(), ADAM, STEPS, 0.01)),
    "inner": Case(partial(slim, trunk="inner"), lambda: Watched(Residual(), MOMENTUM)),
    "group": Case(partial(slim, trunk="group"), lambda: Watched(Residual(), MOMENTUM)),
    "all": Case(partial(slim, trunk="all"), lambda: Watched(Residual(), MOMENTUM)),
    "penalty goes on": Case(partial(slim, penalty_after=True)),
    "accumulation": Case(options={"accumulate_grad_batches": 3}),
    "clipping": Case(options={"gradient_clip_val": 0.1}),
    "rounded widths": Case(compact={"round_to": 2}),
    "rewind": Case(rewound),
    "rewind, restored": Case(
        partial(rewound, optimizer="restored"), lambda: Watched(convolutional(), ADAM, STEPS, 0.01)
    ),
    "lr_rewind": Case(
        partial(rewound, "lr_rewind"), lambda: Watched(convolutional(), ADAM, STEPS, 0.01)
    ),
    "reinit": Case(partial(rewound, "reinit")),
    "finetune": Case(
        partial(rewound, "finetune"), lambda: Watched(convolutional(), ADAM, STEPS, 0.01)
    ),
    "two prunings": Case(twice),
    "two prunings of all": Case(lambda: slim(epoch=[1, 2], amount=[0.25, 0.5], of="all")),
    "cubic": Case(lambda: slim(epoch=Cubic(first=0, last=2), amount=0.6)),
    "two prunings, rewind": Case(lambda: twice(RewindToEpoch(1))),
    "two prunings, restored": Case(
        lambda: twice(RewindToEpoch(1, optimizer="restored")),
        lambda: Watched(convolutional(), ADAM, STEPS, 0.01),
    ),
    "at the end": Case(partial(slim, epoch=None)),
    "layers on the module": Case(module=lambda: Direct(nn.Identity())),
    "two arguments": Case(module=lambda: Positional(TwoArguments())),
    "arguments by name": Case(module=lambda: ByName(TwoArguments())),
    "manual": Case(module=lambda: Manual(convolutional())),
    "a list of layers": Case(module=lambda: Watched(Wrapped())),
    "the loss is kept": Case(module=lambda: Holding(convolutional())),
    "EMA": Case(lambda: [*slim(), EMAWeightAveraging(decay=0.8)]),
    "EMA first": Case(lambda: [EMAWeightAveraging(decay=0.8), *slim()]),
    "EMA, residual": Case(
        lambda: [*slim(), EMAWeightAveraging(decay=0.8)], lambda: Watched(Residual(), MOMENTUM)
    ),
    "EMA, rewind": Case(lambda: [*rewound(), EMAWeightAveraging(decay=0.8)]),
    "SWA": Case(lambda: [*slim(), StochasticWeightAveraging(0.05, swa_epoch_start=2)]),
}


SLOW = ("EMA first", "EMA, rewind", "lr_rewind", "rewind, restored", "finetune", "all")


@HOLDS
@CUT
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES]
)
def test_it_trains_on_as_the_masked_network_does(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    masked, small = both(
        tmp_path, case.callbacks, case.module(), compact=case.compact, **case.options
    )
    assert apart(masked, small) < EQUAL
    assert size(small) < size(masked)
    x = images(2).tensors[0].double()
    for module in (masked, small):
        module.eval()
    with torch.no_grad():
        assert float((masked.predict(x) - small.predict(x)).abs().max()) < EQUAL
        stored = ltpl.load(small.runner.default_root_dir, *model_for(name, case)).eval()
        small.net = stored
        assert float((masked.predict(x) - small.predict(x)).abs().max()) < EQUAL


def model_for(name: str, case: Case) -> tuple[nn.Module]:
    module = case.module()
    return (module if name == "layers on the module" else module.net,)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("net", [pytest.param(convolutional, marks=pytest.mark.slow), Residual])
def test_a_compiled_network_inside(net: Callable[[], nn.Module], tmp_path: Path) -> None:
    module = Watched(net(), MOMENTUM)
    twin = copy.deepcopy(module)
    twin.net = torch.compile(twin.net, backend="aot_eager")
    masked = fit(tmp_path, slim(), module, max_epochs=2)
    small = fit(tmp_path, [*slim(), CompactAfterPruning()], twin, max_epochs=2)
    assert apart(masked, small) < EQUAL
    assert size(small) < 0.9 * size(masked)
    stored = ltpl.load(tmp_path, net())
    assert size(stored) == size(small)
