"""`Trajectory`: how sparse the network is, and how its surviving weights move, in every logger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ltpl.callbacks.masking import live_mask, maskers
from ltpl.callbacks.sizing import Sizing
from ltpl.masks.mask import Mask
from ltpl.masks.select import prunable
from ltpl.masks.shards import whole


class Trajectory(Sizing):
    """Log density, density by layer, statistics of the surviving weights and learning rates.

    At the end of each epoch: `ticket/density` (of the prunable weights), `ticket/density_all` (of
    all parameters), `ticket/kept`, `density/<layer>`, and `weights_mean_abs`, `weights_std`,
    `weights_norm` by layer. Each `log_every_n_steps` steps: `lr/<optimiser>`. At each pruning: the
    new densities. They are also metrics that `ModelCheckpoint` and `EarlyStopping` can monitor.

    Args:
        layers: Whether to log each layer too.
        include: Which parameters, where no masking callback says so; see `ltpl.masks.prunable`.
        exclude: Which parameters not.

    Example:
        >>> from ltpl.callbacks import PruneAtEpoch, Trajectory
        >>> callbacks = [PruneAtEpoch(epochs=10), Trajectory()]
    """

    def __init__(
        self,
        layers: bool = True,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
    ):
        self.layers = layers
        self.include = include
        self.exclude = exclude

    def _parameters(self, trainer: Any, pl_module: nn.Module) -> dict[str, nn.Parameter]:
        if self.include is None and self.exclude is None:
            chosen = {n: p for m in maskers(trainer) for n, p in m.prunable(pl_module).items()}
            if chosen:
                return chosen
        return prunable(pl_module, self.include, self.exclude)

    def _mask(self, trainer: Any, parameters: dict[str, nn.Parameter]) -> Mask:
        """Return what the masks keep; without any mask, what is not zero."""
        mask = live_mask(trainer)
        if mask is None:
            return (Mask.dense if maskers(trainer) else Mask.nonzero)(parameters)
        dense = {n: p for n, p in parameters.items() if n not in mask}
        return Mask({**Mask.dense(dense), **{n: mask[n] for n in parameters if n in mask}})

    def _measure(self, trainer: Any, pl_module: nn.Module) -> dict[str, float]:
        parameters = self._parameters(trainer, pl_module)
        mask = self._mask(trainer, parameters)
        values = {
            "ticket/density": mask.density,
            "ticket/density_all": mask.density_of(pl_module),
            "ticket/kept": float(mask.kept),
        }
        if self.layers:
            for row in mask.table():
                values[f"density/{row.name}"] = row.density
                for statistic, value in surviving(parameters[row.name], mask[row.name]).items():
                    values[f"weights_{statistic}/{row.name}"] = value
        return values

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        values = self._measure(trainer, pl_module)  # the same on every rank
        several = trainer.world_size > 1
        pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=several)

    @override
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:
            _write(trainer, learning_rates(trainer))

    def on_prune(self, trainer: Any, pl_module: Any, mask: Mask) -> None:
        """Write the new densities at the very step of the pruning."""
        values = self._measure(trainer, pl_module)
        _write(trainer, {k: v for k, v in values.items() if not k.startswith("weights")})


@torch.no_grad()
def surviving(weight: Tensor, keep: Tensor) -> dict[str, float]:
    """Return mean magnitude, standard deviation and norm of the kept weights."""
    kept = whole(weight)[keep.to(weight.device)]
    kept = kept.abs() if kept.is_complex() else kept.float()
    if not kept.numel():
        return {"mean_abs": 0.0, "std": 0.0, "norm": 0.0}
    return {
        "mean_abs": float(kept.abs().mean()),
        "std": float(kept.std(correction=0)),
        "norm": float(kept.norm()),
    }


def learning_rates(trainer: Any) -> dict[str, float]:
    """Return the learning rate of each optimiser and parameter group, by name."""
    rates = {}
    for number, optimizer in enumerate(trainer.optimizers):
        name = type(optimizer).__name__ + (f"-{number}" if len(trainer.optimizers) > 1 else "")
        for index, group in enumerate(optimizer.param_groups):
            if "lr" in group:
                tail = f"/pg{index}" if len(optimizer.param_groups) > 1 else ""
                rates[f"lr/{name}{tail}"] = float(group["lr"])
    return rates


def _write(trainer: Any, values: dict[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step)
