"""The penalty of `NetworkSlimming`, in every way to train, against a script in plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from slim import L1, Alternating, SlimByHand, halves, network, norms
from tiny import EPOCHS, Tiny, loader, trainer
from torch import Tensor, nn

from ltpl.callbacks import NetworkSlimming, PruneAtEpoch

SGD = partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-2)
ADAM = partial(torch.optim.Adam, weight_decay=1e-2)


def scaler(scale: float = 1024.0) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale)


def fp16(scale: float = 1024.0) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", scaler=scaler(scale))


HALF = {"options": {"plugins": fp16}, "by_hand": {"autocast": torch.float16, "scaler": scaler}}
HUGE = {  # so that the first steps are skipped
    "options": {"plugins": partial(fp16, 2.0**40)},
    "by_hand": {"autocast": torch.float16, "scaler": partial(scaler, 2.0**40)},
}


@dataclass
class Cell:
    optimizer: Callable[..., torch.optim.Optimizer] = SGD
    module: type[Tiny] = Tiny
    options: dict[str, Any] = field(default_factory=dict)
    by_hand: dict[str, Any] = field(default_factory=dict)
    slim: dict[str, Any] = field(default_factory=dict)
    compiled: bool = False

    def and_also(self, options: dict[str, Any], by_hand: dict[str, Any]) -> Cell:
        return Cell(options={**self.options, **options}, by_hand={**self.by_hand, **by_hand})


class Clipped(Alternating):
    clip = 0.05


CLIPS = {
    "norm": ({"gradient_clip_val": 0.05}, {"clip_norm": 0.05}),
    "value": (
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"clip_value": 0.01},
    ),
}
SAME, DIFFERENT = 1e-5, 1e-3
PROXIMAL = {"step": "proximal"}
CELLS = {
    "sgd": Cell(),
    "adam": Cell(ADAM),
    "accumulation": Cell(options={"accumulate_grad_batches": 3}, by_hand={"accumulate": 3}),
    "accumulation, incomplete last": Cell(
        options={"accumulate_grad_batches": 4}, by_hand={"accumulate": 4}
    ),
    "clip by norm": Cell().and_also(*CLIPS["norm"]),
    "clip by value": Cell().and_also(*CLIPS["value"]),
    "bf16-mixed": Cell(options={"precision": "bf16-mixed"}, by_hand={"autocast": torch.bfloat16}),
    "16-mixed": Cell(**HALF),
    "16-mixed, clip by norm": Cell(**HALF).and_also(*CLIPS["norm"]),
    "16-mixed, clip by value": Cell(**HALF).and_also(*CLIPS["value"]),
    "16-mixed, skipped steps": Cell(**HUGE),
    "16-mixed, an optimiser that unscales itself": Cell(partial(SGD, fused=True), **HALF),
    "manual, two optimisers": Cell(module=Alternating, by_hand={"alternating": True}),
    "manual, two optimisers, clip by norm": Cell(
        module=Clipped, by_hand={"alternating": True, "clip_norm": 0.05}
    ),
    "torch.compile": Cell(compiled=True),
    "proximal, sgd": Cell(slim=PROXIMAL),
    "proximal, adam": Cell(ADAM, slim=PROXIMAL),
    "proximal, manual, two optimisers": Cell(
        module=Alternating, by_hand={"alternating": True}, slim=PROXIMAL
    ),
    "proximal, 16-mixed, skipped steps": Cell(**HUGE, slim=PROXIMAL),
    "proximal, skipped by the optimiser": Cell(
        partial(torch.optim.SGD, fused=True), **HUGE, slim=PROXIMAL
    ),
}
DYNAMO_NOISE = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
cells = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=DYNAMO_NOISE if cell.compiled else ()) for n, cell in CELLS.items()],
)


def by_callback(cell: Cell, net: nn.Module, folder: Path, *others: Any, **slim: Any) -> Any:
    slimming = NetworkSlimming(**{"l1": L1, "amount": None, **cell.slim, **slim})
    module = cell.module(net, cell.optimizer)
    fitted = torch.compile(module, backend="aot_eager") if cell.compiled else module
    options = {k: v() if callable(v) else v for k, v in cell.options.items()}
    trainer(folder, [*others, slimming], **options).fit(fitted, loader())
    assert "configure_gradient_clipping" not in vars(module)
    return slimming


def by_hand(cell: Cell, net: nn.Sequential, **more: Any) -> dict[str, Tensor]:
    groups = halves(net) if issubclass(cell.module, Alternating) else [list(net.parameters())]
    given = {k: v() if callable(v) else v for k, v in cell.by_hand.items()}
    optimizers = [cell.optimizer(group, lr=0.1) for group in groups]
    given |= {"proximal": cell.slim == PROXIMAL}
    return SlimByHand(net, optimizers, **{**given, **more}).fit()


def distance(net: nn.Module, expected: dict[str, Tensor]) -> float:
    return max(float((p.detach() - expected[n]).abs().max()) for n, p in net.named_parameters())


@cells
def test_the_penalty_equals_a_script_in_plain_torch(name: str, tmp_path: Path) -> None:
    cell, net = CELLS[name], network()
    twin, bare = copy.deepcopy(net), copy.deepcopy(net)
    by_callback(cell, net, tmp_path)
    assert distance(net, by_hand(cell, twin)) < SAME
    assert distance(net, by_hand(cell, bare, l1=0.0)) > DIFFERENT


@cells
def test_pruned_channels_stay_silent_and_the_rest_trains_on(name: str, tmp_path: Path) -> None:
    cell, net = CELLS[name], network()
    twin = copy.deepcopy(net)
    slimming = by_callback(cell, net, tmp_path, amount=0.5, epoch=2, penalty_after=True)
    assert distance(net, by_hand(cell, twin, prune_at=2, penalty_after=True)) < SAME
    for path, norm in norms(net).items():
        for leaf in ("weight", "bias"):
            keep = slimming.mask[f"net.{path}.{leaf}"]
            assert not getattr(norm, leaf)[~keep].count_nonzero()


@pytest.mark.parametrize("penalty_after", [False, True])
def test_the_penalty_ends_with_the_pruning_unless_it_shall_not(
    penalty_after: bool, tmp_path: Path
) -> None:
    net = network()
    twin, other = copy.deepcopy(net), copy.deepcopy(net)
    options = {"amount": 0.5, "epoch": 2, "penalty_after": penalty_after}
    by_callback(Cell(), net, tmp_path, **options)
    assert distance(net, by_hand(Cell(), twin, prune_at=2, penalty_after=penalty_after)) < SAME
    wrong = by_hand(Cell(), other, prune_at=2, penalty_after=not penalty_after)
    assert distance(net, wrong) > DIFFERENT


def test_between_several_prunings_the_penalty_goes_on() -> None:
    slimming = NetworkSlimming(epoch=[1, 3], amount=0.2, of="remaining")
    acts = []
    for slimming.pruned_at in ([], [1], [1, 3]):
        acts.append(slimming.penalises)
    assert acts == [True, True, False]


@pytest.mark.parametrize("penalty_after", [False, True])
def test_the_penalty_ends_when_another_callback_prunes_channels(
    penalty_after: bool, tmp_path: Path
) -> None:
    net = network()
    twin = copy.deepcopy(net)
    others = PruneAtEpoch(1, 0.1), NetworkSlimming(0.0, 0.5, 2, include="net.*")
    by_callback(Cell(), net, tmp_path, others[1], penalty_after=penalty_after)
    assert distance(net, by_hand(Cell(), twin, prune_at=2, penalty_after=penalty_after)) < SAME
    slimming = by_callback(Cell(), network(), tmp_path, others[0])
    assert slimming.penalises


@pytest.mark.parametrize("wrong", ["before_unscaling", "before_clipping"])
def test_what_would_go_wrong_does_make_a_difference(wrong: str, tmp_path: Path) -> None:
    cell = CELLS["16-mixed, clip by norm"]
    net = network()
    twin = copy.deepcopy(net)
    by_callback(cell, net, tmp_path)
    assert distance(net, by_hand(cell, twin, **{wrong: True})) > DIFFERENT


def test_the_proximal_step_gives_exact_zeros_and_the_subgradient_does_not(tmp_path: Path) -> None:
    zeros = []
    for step in ("proximal", "subgradient"):
        net = network()
        by_callback(Cell(), net, tmp_path, step=step, l1=0.5)
        zeros.append(sum(int((norm.weight == 0).sum()) for norm in norms(net).values()))
    assert zeros[0] > 5
    assert zeros[1] == 0


def test_only_chosen_factors_that_train_are_penalised(tmp_path: Path) -> None:
    net = network()
    net[1].weight.requires_grad_(False)
    frozen, twin = net[1].weight.clone(), copy.deepcopy(net)
    by_callback(Cell(), net, tmp_path)
    assert torch.equal(net[1].weight, frozen)
    assert distance(net, by_hand(Cell(), twin)) < SAME

    net = network()
    twin = copy.deepcopy(net)
    by_callback(Cell(), net, tmp_path, exclude="net.4")
    assert distance(net, by_hand(Cell(), twin, only="1")) < SAME


class Unused(Tiny):
    """A layer that this fit never calls."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spare = nn.BatchNorm1d(4)


def test_a_factor_without_a_gradient_does_not_move(tmp_path: Path) -> None:
    for step in ("subgradient", "proximal"):
        module = Unused(network(), SGD)
        slimming = NetworkSlimming(L1, amount=None, step=step)
        trainer(tmp_path, [slimming]).fit(module, loader())
        assert torch.equal(module.spare.weight, torch.ones(4))


class OwnClipping(Tiny):
    """Clips by a rule of its own."""

    calls = 0

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.calls += 1
        for parameter in self.parameters():
            parameter.grad.clamp_(-0.01, 0.01)


def test_the_clipping_of_a_project_is_called_and_the_penalty_comes_after(tmp_path: Path) -> None:
    net = network()
    twin = copy.deepcopy(net)
    module = OwnClipping(net, SGD)
    two = [NetworkSlimming(L1, None, include=f"net.{i}") for i in (1, 4)]
    trainer(tmp_path, two).fit(module, loader())
    assert module.calls == EPOCHS * len(loader())
    assert distance(net, by_hand(Cell(), twin, clip_value=0.01)) < SAME


def test_weights_pruned_beside_it_stay_pruned(tmp_path: Path) -> None:
    pruner = PruneAtEpoch(1, 0.5)
    by_callback(Cell(), net := network(), tmp_path, pruner, amount=0.5, epoch=2)
    for name, keep in pruner.mask.items():
        assert not net.get_parameter(name.removeprefix("net."))[~keep].count_nonzero()


def test_two_processes_see_the_penalty_once(tmp_path: Path) -> None:
    processes.run("slim_two_processes.py", tmp_path)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    expected = torch.load(tmp_path / "by_hand.pt")
    for name, value in expected.items():
        assert torch.equal(found[0][name], found[1][name])
        torch.testing.assert_close(found[0][name], value, rtol=0, atol=1e-6)
