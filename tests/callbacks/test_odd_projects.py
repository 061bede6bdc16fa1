"""Projects that do something unusual, written in the manner of public ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny import BATCHES, loader, trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ltpl.callbacks import Every, PruneAtEpoch, RewindToEpoch, Trajectory


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


class Plain(pl.LightningModule):
    """What the projects below have in common."""

    def __init__(self, first: nn.Module | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(first or nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Each(pl.Callback):
    """Do something before each batch."""

    def __init__(self, do: Callable[[Any, Any], None]) -> None:
        self.do = do

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.do(trainer, pl_module)


def alive(module: Any, pruner: PruneAtEpoch) -> int:
    """Count the weights that are pruned and yet not zero."""
    return sum(int(module.get_parameter(n)[~k].count_nonzero()) for n, k in pruner.mask.items())


def fit(module: Any, folder: Path, *callbacks: Any, **options: Any) -> pl.Trainer:
    runner = trainer(folder, callbacks, **({"max_epochs": 4} | options))
    runner.fit(module, loader())
    return runner


def test_a_teacher_of_the_same_class_is_left_alone(tmp_path: Path) -> None:
    teacher = Plain()
    before = weights(teacher)
    holder = Each(lambda *_: None)
    holder.teacher = teacher
    fit(Plain(), tmp_path, PruneAtEpoch(1, 0.5), RewindToEpoch(), holder)
    assert all(torch.equal(value, before[name]) for name, value in weights(teacher).items())


def test_an_average_of_a_part_of_the_module_is_masked(tmp_path: Path) -> None:
    module, pruner = Plain(), PruneAtEpoch(1, 0.5)
    average = AveragedModel(module.net)
    holder = Each(lambda trainer, module: average.update_parameters(module.net))
    holder.average = average
    fit(module, tmp_path, pruner, holder)
    for name, keep in pruner.mask.items():
        assert not average.module.get_parameter(name.removeprefix("net."))[~keep].count_nonzero()


def test_an_average_inside_the_module_has_no_mask_of_its_own(tmp_path: Path) -> None:
    module, pruner = Plain(), PruneAtEpoch(1, 0.5)
    module.average = AveragedModel(module.net)
    fit(module, tmp_path, pruner, Each(lambda _, m: m.average.update_parameters(m.net)))
    assert list(pruner.mask) == ["net.0.weight", "net.2.weight"]


def test_a_rewind_after_one_pruner_keeps_the_mask_of_the_other(tmp_path: Path) -> None:
    pruners = [PruneAtEpoch(1, 0.5, include=f"net.{i}.*") for i in (0, 2)]
    seen = []

    def look(trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 1:
            seen.append(sum(alive(module, pruner) for pruner in pruners))

    fit(Plain(), tmp_path, *pruners, RewindToEpoch(), Each(look))
    assert not any(seen)


class TwoStep(torch.optim.Optimizer):
    """As sharpness-aware minimisers do: an optimiser inside does the step, with its own slots."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.inner = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)
        self.param_groups = self.inner.param_groups

    def second_step(self) -> None:
        self.inner.step()
        self.zero_grad()


class Sharpness(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return TwoStep(self.parameters())

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers(use_pl_optimizer=False).second_step()


def test_an_optimiser_inside_an_optimiser_revives_nothing(tmp_path: Path) -> None:
    module, pruner = Sharpness(), PruneAtEpoch(2, 0.5)
    seen = []

    def look(trainer: Any, module: Any) -> None:
        if pruner.mask is not None:
            seen.append(alive(module, pruner))

    fit(module, tmp_path, pruner, Each(look))
    assert not any(seen)


class Filling(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.empty(0), persistent=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if not self.bank.numel():
            self.bank = torch.zeros(4, 8)
        return super().training_step(batch, batch_idx)


def test_a_rewind_bears_a_buffer_that_was_made_by_the_first_batch(tmp_path: Path) -> None:
    fit(Filling(), tmp_path, PruneAtEpoch(1, 0.5), RewindToEpoch())


def test_a_step_that_two_optimisers_jump_over_is_still_found(tmp_path: Path) -> None:
    class TwoSteps(Sharpness):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.net[i].parameters(), lr=0.1) for i in (0, 2)]

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(Plain.training_step(self, batch, batch_idx))
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

    fit(TwoSteps(), tmp_path, PruneAtEpoch(2, 0.5), RewindToEpoch(at="3it"))


def test_two_fits_in_one_folder_keep_their_own_snapshots(tmp_path: Path) -> None:
    """As of a sweep: the loggers of most services give every run the same `save_dir`."""
    shared = {"default_root_dir": tmp_path}

    def meanwhile(trainer: Any, module: Any) -> None:
        if trainer.global_step == 1:
            fit(Plain(), tmp_path / "other", RewindToEpoch(), **shared)

    module, starts = Plain(), []
    start = weights(module)
    look = Each(lambda trainer, module: starts.append(weights(module)))
    callbacks = [PruneAtEpoch(1, 0.5), RewindToEpoch(), look, Each(meanwhile)]
    fit(module, tmp_path / "one", *callbacks, **shared)
    kept = starts[BATCHES]["net.0.weight"] != 0
    assert torch.equal(starts[BATCHES]["net.0.weight"][kept], start["net.0.weight"][kept])


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 16)),
        pytest.param(
            lambda: nn.utils.weight_norm(nn.Linear(8, 16)),
            marks=pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
        ),
    ],
    ids=["parametrization", "hook"],
)
def test_weight_normalisation_survives_pruning_in_turn(layer: Any, tmp_path: Path) -> None:
    module = Plain(layer())
    fit(module, tmp_path, PruneAtEpoch([1, 2], [0.7, 0.4], scope="layer"), RewindToEpoch())
    assert all(value.isfinite().all() for value in module.parameters())


class InTurn(Plain):
    """Two heads trained in turn: in each step one of them has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.heads[batch_idx % 2](self.net(batch[0]))
        return nn.functional.cross_entropy(logits, batch[1])


def test_a_head_that_waits_for_its_turn_raises_no_alarm(tmp_path: Path) -> None:
    fit(InTurn(), tmp_path, PruneAtEpoch(1, 0.3))


def test_a_layer_that_is_frozen_by_now_keeps_its_mask(tmp_path: Path) -> None:
    def freeze(trainer: Any, module: Any) -> None:
        module.net[0].requires_grad_(trainer.current_epoch < 2)

    module, pruner = Plain(), PruneAtEpoch([1, 3], 0.5, scope="layer")
    fit(module, tmp_path, pruner, Each(freeze))
    assert pruner.mask["net.0.weight"].sum() == 64
    assert pruner.mask["net.2.weight"].sum() == 12
    assert not alive(module, pruner)


class Twin(Plain):
    """A momentum encoder, updated inside training_step."""

    def __init__(self) -> None:
        super().__init__()
        self.twin = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.twin.parameters(), self.net.parameters(), strict=True):
                slow.mul_(0.9).add_(fast, alpha=0.1)
        return super().training_step(batch, batch_idx)


def test_scoring_does_not_move_a_momentum_encoder(tmp_path: Path) -> None:
    module, seen = Twin(), []
    with torch.no_grad():
        module.twin[0].weight.add_(1)
    before = module.twin[0].weight.clone()
    look = Each(lambda _, module: seen.append(module.twin[0].weight.clone()))
    fit(module, tmp_path, PruneAtEpoch(0, 0.5, criterion="snip"), look)
    assert torch.equal(seen[0], before)


def test_a_schedule_that_cannot_be_stored_is_named(tmp_path: Path) -> None:
    class Holding(torch.optim.lr_scheduler.LRScheduler):
        def __init__(self, optimizer: Any) -> None:
            self.after = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            super().__init__(optimizer)

        def get_lr(self) -> list[float]:
            return [group["lr"] for group in self.optimizer.param_groups]

    class Scheduled(Plain):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [Holding(optimizer)]

    fit(Scheduled(), tmp_path, PruneAtEpoch(1, 0.5), RewindToEpoch(policy="continue"))
    with pytest.raises(ValueError, match=r"schedulers\.0\.after is a StepLR"):
        fit(Scheduled(), tmp_path, PruneAtEpoch(1, 0.5), RewindToEpoch())


def test_a_fit_that_goes_on_with_the_same_trainer_goes_on_pruning(tmp_path: Path) -> None:
    module, pruner = Plain(), PruneAtEpoch(Every(2), 0.3)
    runner = fit(module, tmp_path, pruner, RewindToEpoch())
    runner.fit_loop.max_epochs = 8
    runner.fit(module, loader())
    assert pruner.pruned_at == [2, 4, 6, 8]
    assert pruner.mask.density == pytest.approx(0.7**4, abs=0.01)


def test_finetuning_is_refused_where_the_module_steps_its_own_schedule(tmp_path: Path) -> None:
    class Scheduled(Sharpness):
        def configure_optimizers(self) -> Any:
            optimizer = Plain.configure_optimizers(self)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    with pytest.raises(ValueError, match="under manual optimization the module steps"):
        fit(Scheduled(), tmp_path, PruneAtEpoch(1, 0.5), RewindToEpoch(policy="finetune"))


def test_snapshots_on_a_remote_root_are_refused_with_the_way_out(tmp_path: Path) -> None:
    options = {"default_root_dir": "memory://runs"}
    with pytest.raises(ValueError, match="give RewindToEpoch a dirpath"):
        fit(Plain(), tmp_path, PruneAtEpoch(1, 0.5), RewindToEpoch(), **options)
    rewinder = RewindToEpoch(dirpath=str(tmp_path))
    fit(Plain(), tmp_path, PruneAtEpoch(1, 0.5), rewinder, **options)


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(8, 8, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_real(x.to(torch.cfloat) @ self.weights).flatten(1)


def test_complex_weights_are_ranked_by_their_magnitude(tmp_path: Path) -> None:
    module, pruner = Plain(nn.Sequential(Spectral())), PruneAtEpoch(0, 0.5, scope="layer")
    first = module.net[0][0].weights.detach().clone().abs()
    fit(module, tmp_path, pruner, Trajectory(), max_epochs=1)
    keep = pruner.mask["net.0.0.weights"]
    assert first[keep].min() > first[~keep].max()
    assert not alive(module, pruner)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_noise_that_another_callback_adds_to_gradients_reaches_no_pruned_slot(
    optimizer: Any, tmp_path: Path
) -> None:
    class Noise(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            for weight in pl_module.parameters():
                weight.grad.add_(torch.randn_like(weight))

    class Momentum(Plain):
        def configure_optimizers(self) -> Any:
            options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
            return optimizer(self.parameters(), lr=0.01, **options)

    def look(trainer: Any, module: Any) -> None:
        for name, keep in (pruner.mask or {}).items():
            weight = module.get_parameter(name)
            for slot in trainer.optimizers[0].state[weight].values():
                if isinstance(slot, Tensor) and slot.shape == weight.shape:
                    assert not slot[~keep].count_nonzero()

    pruner = PruneAtEpoch(1, 0.5)
    fit(Momentum(), tmp_path, pruner, Noise(), Each(look))
    assert pruner.mask.density == 0.5
