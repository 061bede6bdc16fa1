"""`network_of`: what a LightningModule trains, found without leaving a trace."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from tiny import Tiny, loader, network, trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from ltpl.callbacks.network import Network, detached, network_of, positional, smallest
from ltpl.callbacks.scoring import training_batches
from ltpl.masks import Mask

BATCH = (torch.randn(4, 8), torch.randint(3, (4,)))


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.gain = network(), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, factor: float = 1.0, *, shift: float = 0.0) -> Tensor:
        return self.body(x) * self.gain * factor + shift


class Plain(Tiny):
    """Knows what is called, and how."""

    options: tuple[tuple[Any, ...], dict[str, Any]] = (), {}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        args, kwargs = self.options
        return cross_entropy(self.net(batch[0], *args, **kwargs), batch[1])


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(network())

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Beside(Plain):
    """Losses, metrics, frozen networks and averages are beside the network."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(3))
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
        self.teacher = network().requires_grad_(False)
        self.average = AveragedModel(self.net)


class Direct(Plain):
    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.one, self.two = nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("module", "path"),
    [
        (lambda: Plain(), "net"),
        (lambda: Beside(), "net"),
        (lambda: Plain(nn.Sequential(nn.Flatten(), network())), "net.1"),
        (lambda: Plain(Listed()), "net"),
        (lambda: Plain(Weighted()), "net"),
        (lambda: Plain(torch.compile(network())), "net"),
        (lambda: Direct(), ""),
    ],
    ids=["plain", "beside", "inside", "list", "weighted", "compiled", "direct"],
)
def test_the_smallest_that_holds_all_that_trains(module: Any, path: str) -> None:
    owner = module()
    found = network_of(owner, BATCH)
    assert found.path == path == smallest(owner)[0]
    here = owner.get_submodule(path)
    assert found.module is getattr(here, "_orig_mod", here)
    assert torch.equal(found.arguments[0].flatten(1), BATCH[0])
    assert not found.arguments[0].requires_grad


def test_arguments_by_name_are_put_in_place() -> None:
    module = Plain(Weighted())
    module.options = (), {"factor": 2.0}
    assert network_of(module, BATCH).arguments[1:] == (2.0,)
    module.options = (), {"factor": 2.0, "shift": 1.0}
    with pytest.raises(ValueError, match="Weighted is called with shift, which its forward takes"):
        network_of(module, BATCH)
    assert positional(nn.Linear(1, 1), (), {"input": 3}) == (3,)


def test_arguments_that_a_forward_only_collects_are_refused() -> None:
    class Collects(nn.Module):
        def forward(self, **kwargs: Tensor) -> Tensor:
            return kwargs["x"]

    with pytest.raises(ValueError, match="Collects is called with x, which its forward takes by"):
        positional(Collects(), (), {"x": 1})


class Busy(Beside):
    """Draws numbers, counts and logs before it calls the network."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.accuracy.update(torch.rand(len(batch[1]), 3), batch[1])
        self.log("seen", 1.0)
        self.log_dict({"also": 1.0})
        x = nn.functional.dropout(batch[0], 0.5)
        return self.loss(self.net(x), batch[1])


def traces(module: nn.Module) -> Any:
    """Return all that must not change."""
    metric = getattr(module, "accuracy", None)
    return copy.deepcopy(
        (
            {n: (p.detach(), p.requires_grad, p.grad) for n, p in module.named_parameters()},
            dict(module.named_buffers()),
            [m.training for m in module.modules()],
            [len(m._forward_pre_hooks) for m in module.modules()],
            torch.get_rng_state(),
            () if metric is None else (metric._update_count, metric.metric_state),
            sorted(vars(module)),
        )
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("kind", [Plain, Busy, Direct])
def test_it_leaves_no_trace(kind: Any) -> None:
    module = kind()
    module.train()
    next(iter(module.children())).eval()
    if kind is Busy:
        module.accuracy.update(torch.rand(4, 3), BATCH[1])
    network = module if kind is Direct else module.net
    cross_entropy(network(BATCH[0]), BATCH[1]).backward()
    before = traces(module)
    network_of(module, BATCH)
    assert same(before, traces(module))


def test_nothing_is_logged_in_the_middle_of_a_fit(tmp_path: Any) -> None:
    class Looks(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            before = dict(trainer.callback_metrics)
            state = copy.deepcopy(pl_module.accuracy.metric_state)
            for batch in training_batches(trainer, 2):
                network_of(pl_module, batch)
            assert dict(trainer.callback_metrics) == before
            assert same(state, pl_module.accuracy.metric_state)

    trainer(tmp_path, [Looks()], max_epochs=2).fit(Busy(), loader())


class Never(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        for layer in self.net:
            x = layer(x)
        return cross_entropy(x, batch[1])


def test_a_step_that_calls_nothing_is_one_clear_error() -> None:
    module = Never()
    before = traces(module)
    with pytest.raises(ValueError, match="training_step of Never does not call its net") as error:
        network_of(module, BATCH)
    assert "\n" not in str(error.value)
    assert same(before, traces(module))


class Adversaries(pl.LightningModule):
    """Manual: two networks, toggled; the whole module is never called."""

    def __init__(self, first: bool = False) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 3)
        self.automatic_optimization = False
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(m.parameters(), 0.1) for m in (self.one, self.two)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        self.toggle_optimizer(first)
        first.zero_grad(set_to_none=False)
        self.untoggle_optimizer(first)
        with second.toggle_model():
            second.zero_grad(set_to_none=False)
        second.step()
        if not self.first:
            self.manual_backward(self.one(batch[0]).square().mean())
            first.step()
        self.manual_backward(cross_entropy(self(batch[0]), batch[1]))
        self.clip_gradients(second, 1.0, "norm")
        second.step()


@pytest.mark.parametrize("first", [True, False])
def test_manual_optimisation_does_not_step(first: bool, tmp_path: Any) -> None:
    class Looks(pl.Callback):
        seen = 0

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, _: int) -> None:
            before = traces(pl_module), [copy.deepcopy(o.state_dict()) for o in trainer.optimizers]
            if first:
                assert torch.equal(network_of(pl_module, batch).arguments[0], batch[0])
            else:
                with pytest.raises(ValueError, match="does not call its forward"):
                    network_of(pl_module, batch)
            after = traces(pl_module), [copy.deepcopy(o.state_dict()) for o in trainer.optimizers]
            assert same(before, after)
            Looks.seen += 1

    trainer(tmp_path, [Looks()], max_epochs=1).fit(Adversaries(first), loader())
    assert Looks.seen == 6


def test_batches_are_what_the_step_will_see(tmp_path: Any) -> None:
    class Shifted(Tiny):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] + 1, batch[1]

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] * 2, batch[1]

    seen: list[Tensor] = []

    class Looks(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, _: int) -> None:
            if not seen:
                states = random.getstate(), np.random.get_state()[1].tolist()
                seen.extend([batch[0], training_batches(trainer, 1)[0][0]])
                assert states == (random.getstate(), np.random.get_state()[1].tolist())

    trainer(tmp_path, [Looks()], max_epochs=1, precision="64-true").fit(Shifted(), loader())
    assert seen[0].dtype == torch.float64
    assert torch.equal(*seen)


def test_the_part_of_a_mask_inside() -> None:
    keep = torch.ones(2, dtype=torch.bool)
    mask = Mask({"net.a.weight": keep, "network.b": keep, "c": keep})
    assert list(Network("net", nn.Identity(), ()).inside(mask)) == ["a.weight"]
    assert list(Network("", nn.Identity(), ()).inside(mask)) == list(mask)


def test_another_network_is_put_in_its_place() -> None:
    owner = nn.Sequential(nn.Sequential(nn.Linear(1, 1)), torch.compile(nn.Linear(1, 1)))
    new = nn.Linear(1, 2)
    Network("0.0", owner[0][0], ()).put(owner, new)
    assert owner[0][0] is new
    compiled = owner[1]
    Network("1", compiled._orig_mod, ()).put(owner, new)
    assert owner[1] is compiled
    assert compiled._orig_mod is new


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_sparse_arguments_are_given_dense() -> None:
    x = torch.rand(3, 4).round()
    sparse, labels = x.to_sparse_csr(), torch.arange(3)
    first, second, third = detached((sparse, x.to_sparse(), labels))
    assert torch.equal(first, x)
    assert torch.equal(second, x)
    assert third is not labels
    assert torch.equal(third, labels)
