"""A small LightningModule with its data, and the same training written out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 5
PRUNE_AT = [1, 3]
AMOUNT = 0.4
BATCHES = 6


def network(norm: bool = True) -> nn.Sequential:
    middle = nn.BatchNorm1d(16) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(8, 16), middle, nn.Tanh(), nn.Linear(16, 16), nn.Linear(16, 3))


def tied_network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))
    net[2].weight = net[0].weight
    return net


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network(norm=False)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False)


class Tiny(pl.LightningModule):
    def __init__(
        self,
        net: nn.Module | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
        lr: float = 0.1,
    ) -> None:
        super().__init__()
        self.net = network() if net is None else net
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters(), lr=self.lr)
        if self.make_schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_schedule(optimizer)}


class Validated(Tiny):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self.net(batch[0]), batch[1]))


class TwoOptimizers(Tiny):
    """Manual optimisation: one optimiser for the first layer, one for the rest."""

    clip: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return split_optimizers(self.net, self.make_optimizer, self.lr)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(cross_entropy(self.net(batch[0]), batch[1]))
        for optimizer in optimizers:
            if self.clip is not None:
                self.clip_gradients(optimizer, self.clip, gradient_clip_algorithm="norm")
            optimizer.step()


def split_optimizers(
    net: nn.Module, make: Callable[..., torch.optim.Optimizer], lr: float
) -> list[torch.optim.Optimizer]:
    first, *rest = net.children()
    others = [p for module in rest for p in module.parameters()]
    return [make(first.parameters(), lr=lr), make(others, lr=lr)]


def dataset(seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCHES * 10, 8, generator=generator)
    return TensorDataset(x, torch.randint(3, (len(x),), generator=generator))


def loader(seed: int = 0) -> DataLoader:
    return DataLoader(dataset(seed), batch_size=10)


class Resumable(DataLoader):
    """Goes on in the middle of an epoch, as torchdata's StatefulDataLoader does."""

    begun = 0
    skip = 0

    def __iter__(self) -> Any:
        skip, self.skip, self.begun = self.skip, 0, 0
        for number, batch in enumerate(super().__iter__()):
            self.begun = number + 1
            if number >= skip:
                yield batch

    def state_dict(self) -> dict[str, int]:
        return {"begun": self.begun}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skip = state["begun"] % BATCHES


def trainer(folder: Any, callbacks: Sequence[Any], **options: Any) -> pl.Trainer:
    options = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    } | options
    return pl.Trainer(callbacks=list(callbacks), **options)


class ZeroAfterEachStep(pl.Callback):
    """Assert that nothing pruned is alive: weights, gradients, slots, averages."""

    def __init__(self, pruner: Any) -> None:
        self.pruner = pruner
        self.steps = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self.pruner.mask is None:
            return
        self.steps += 1
        parameters = dict(pl_module.named_parameters())
        for name, keep in self.pruner.mask.items():
            weight = parameters[name]
            assert not weight[~keep].count_nonzero()
            assert not weight.grad[~keep].count_nonzero()
            for optimizer in trainer.optimizers:
                for slot in optimizer.state.get(weight, {}).values():
                    if isinstance(slot, Tensor) and slot.shape == weight.shape:
                        assert not slot[~keep].count_nonzero()


@dataclass
class ByHand:
    """Masked training without any framework, as one would write it down from the papers."""

    net: nn.Module
    optimizers: list[torch.optim.Optimizer]
    epochs: int = EPOCHS
    prune_at: Sequence[int] = tuple(PRUNE_AT)
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    autocast: torch.dtype | None = None
    scaler: Any = None
    ema_decay: float | None = None
    swa_from: int | None = None
    average: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    averaged: int = 0

    def __post_init__(self) -> None:
        self.weights = {n: p for n, p in self.net.named_parameters() if p.dim() > 1}
        self.masks = self.masks or {n: torch.ones_like(p) for n, p in self.weights.items()}
        if self.ema_decay is not None or self.swa_from is not None:
            self.average = {n: p.detach().clone() for n, p in self.net.named_parameters()}

    def prune(self) -> None:
        alive = torch.cat([self.masks[n].flatten() for n in self.weights]).bool()
        scores = torch.cat([p.detach().abs().flatten() for p in self.weights.values()])
        live = scores[alive]
        order = live.sort(descending=True, stable=True).indices
        keep_live = torch.zeros_like(live, dtype=torch.bool)
        keep_live[order[: len(live) - round(AMOUNT * len(live))]] = True
        alive[alive.clone()] = keep_live
        for name, part in zip(
            self.weights, alive.split([p.numel() for p in self.weights.values()]), strict=True
        ):
            self.masks[name] = part.view(self.weights[name].shape).float()
        self.hold()
        for name, average in self.average.items():
            average *= self.masks.get(name, torch.ones(()))

    @torch.no_grad()
    def hold(self) -> None:
        for name, weight in self.weights.items():
            weight *= self.masks[name]
            for optimizer in self.optimizers:
                for slot in optimizer.state.get(weight, {}).values():
                    if isinstance(slot, Tensor) and slot.shape == weight.shape:
                        slot *= self.masks[name]

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        mine = [p for group in optimizer.param_groups for p in group["params"]]
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad *= self.masks[name]
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(mine, self.clip_norm)
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(mine, self.clip_value)
        if self.scaler is not None:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()
        self.hold()

    def fit(self) -> dict[str, Tensor]:
        batches = list(loader())
        for epoch in range(self.epochs):
            if epoch in self.prune_at:
                self.prune()
            if self.swa_from is not None and epoch >= self.swa_from:
                for name, p in self.net.named_parameters():
                    self.average[name] += (p.detach() - self.average[name]) / (self.averaged + 1)
                self.averaged += 1
            for number, (x, y) in enumerate(batches):
                cast = torch.autocast("cpu", self.autocast) if self.autocast else nullcontext()
                with cast:
                    loss = cross_entropy(self.net(x), y) / self.accumulate
                (self.scaler.scale(loss) if self.scaler is not None else loss).backward()
                if (number + 1) % self.accumulate and number + 1 < len(batches):
                    continue
                for optimizer in self.optimizers:
                    self.step(optimizer)
                for optimizer in self.optimizers:
                    optimizer.zero_grad()
                if self.ema_decay is not None:
                    self.update_ema()
        if self.average:
            return self.average
        return {n: p.detach() for n, p in self.net.named_parameters()}

    @torch.no_grad()
    def update_ema(self) -> None:
        for name, p in self.net.named_parameters():
            if self.averaged == 0:
                self.average[name].copy_(p)
            else:
                self.average[name].lerp_(p, 1 - self.ema_decay)
        self.averaged += 1
