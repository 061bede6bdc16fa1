"""`Trajectory`: how sparse the network is, and how its surviving weights move, in every logger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ltpl.callbacks.board import LAYOUT, boards, log_step, write
from ltpl.callbacks.mask_picture import picture
from ltpl.callbacks.masking import live_mask, maskers
from ltpl.callbacks.sizing import Sizing
from ltpl.masks.mask import Mask
from ltpl.masks.select import prunable
from ltpl.masks.shards import any_sharded, whole

BINS = 60


class Trajectory(Sizing):
    """Log density, density by layer, statistics of the surviving weights and learning rates.

    At the end of each epoch: `ticket/density` (of the prunable weights), `ticket/density_all` (of
    all parameters), `ticket/kept`, `ticket/layers/<layer>` (its density), and `weights_mean_abs`,
    `weights_std`, `weights_norm` by layer. Each `log_every_n_steps` steps: `lr/<optimiser>`. At
    each pruning: the new densities. They are also metrics that `ModelCheckpoint` and
    `EarlyStopping` can monitor. To TensorBoard also pictures; to other loggers none.

    Args:
        layers: Whether to log each layer too.
        include: Which parameters, where no masking callback says so; see `ltpl.masks.prunable`.
        exclude: Which parameters not.
        histograms: Whether TensorBoard gets the surviving weights of each layer when training ends.
        images: Whether TensorBoard gets the mask of the first layer, `ticket/mask/<layer>`, when
            training starts and when it changes.

    Example:
        >>> from ltpl.callbacks import PruneAtEpoch, Trajectory
        >>> callbacks = [PruneAtEpoch(epochs=10), Trajectory()]
    """

    def __init__(
        self,
        layers: bool = True,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        histograms: bool = True,
        images: bool = True,
    ):
        self.layers = layers
        self.include = include
        self.exclude = exclude
        self.histograms = histograms
        self.images = images
        self._in_round = False
        self._forget()

    def _forget(self) -> None:
        self._shown: dict[str, str] = {}  # the mask in the picture, by version of the logger
        self._is_due = True
        self._has_ended = False
        self._rates_at = -1

    @property
    def state_key(self) -> str:
        """Two that look at different parameters keep separate states."""
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    def on_round(self, trainer: Any, pl_module: Any, lineage: Any) -> None:
        """Leave the charts to the round, which lays them out by itself."""
        self._in_round = True

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._forget()

    def _parameters(self, trainer: Any, pl_module: nn.Module) -> dict[str, nn.Parameter]:
        if self.include is None and self.exclude is None:
            pruning = [m for m in maskers(trainer) if getattr(m, "prunes", True)]
            chosen = {n: p for m in pruning for n, p in m.prunable(pl_module).items()}
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
        values = densities(mask, pl_module)
        if self.layers:
            values |= by_layer(mask)
            for name, keep in mask.items():
                for statistic, value in surviving(parameters[name], keep).items():
                    values[f"weights_{statistic}/{name}"] = value
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
        if self._is_due:  # all callbacks have their masks now
            self._is_due = False
            self._draw(trainer, pl_module)
        step, every = log_step(trainer), trainer.log_every_n_steps
        if every and step % every == 0 and step != self._rates_at:  # not per accumulated batch
            self._rates_at = step
            write(trainer, learning_rates(trainer))

    def on_prune(self, trainer: Any, pl_module: Any, mask: Mask) -> None:
        """Write the new densities at the very step of the pruning."""
        values = self._measure(trainer, pl_module)
        write(trainer, {k: v for k, v in values.items() if not k.startswith("weights")})
        self._is_due = True

    def _draw(self, trainer: Any, pl_module: nn.Module) -> None:
        """Lay out charts, and show the mask of the first layer unless that was shown already."""
        parameters = self._parameters(trainer, pl_module) if self.images else {}
        first = {n: p for n, p in list(parameters.items())[:1] if p.dim() > 1}
        mask = self._mask(trainer, first)
        for logger in boards(trainer):
            before = self._shown.get(version := str(logger.version))
            if before is None and not self._in_round:
                logger.experiment.add_custom_scalars(LAYOUT)
            self._shown[version] = mask.digest
            for name, keep in mask.items() if before != mask.digest else ():
                if (image := picture(keep)) is not None:
                    step = log_step(trainer)
                    logger.experiment.add_image(f"ticket/mask/{name}", image, step)
            logger.experiment.flush()  # before a checkpoint says that it was shown

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._show_weights(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        # a fit that goes on from the end of training has no other hook
        if not self._has_ended and not any_sharded(pl_module):
            self._show_weights(trainer, pl_module)

    def _show_weights(self, trainer: Any, pl_module: nn.Module) -> None:
        self._has_ended = True
        if not self.histograms:
            return
        parameters = self._parameters(trainer, pl_module)
        for name, keep in self._mask(trainer, parameters).items():
            weights = _kept(parameters[name], keep)  # all ranks hold some of it
            weights = weights[weights.isfinite()].cpu()
            for logger in boards(trainer) if weights.numel() else ():
                step = log_step(trainer)
                logger.experiment.add_histogram(f"weights/{name}", weights, step, bins=BINS)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"shown": self._shown}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._shown = dict(state_dict["shown"])


def densities(mask: Mask, model: nn.Module) -> dict[str, float]:
    """Return how much a mask keeps, as it is logged.

    Args:
        mask: What is kept.
        model: The network.
    """
    return {
        "ticket/density": mask.density,
        "ticket/density_all": mask.density_of(model),
        "ticket/kept": float(mask.kept),
    }


def by_layer(mask: Mask) -> dict[str, float]:
    """Return the density of each layer, as it is logged."""
    return {f"ticket/layers/{row.name}": row.density for row in mask.table()}


@torch.no_grad()
def surviving(weight: Tensor, keep: Tensor) -> dict[str, float]:
    """Return mean magnitude, standard deviation and norm of the kept weights."""
    kept = _kept(weight, keep)
    if not kept.numel():
        return {"mean_abs": 0.0, "std": 0.0, "norm": 0.0}
    return {
        "mean_abs": float(kept.abs().mean()),
        "std": float(kept.std(correction=0)),
        "norm": float(kept.norm()),
    }


def _kept(weight: Tensor, keep: Tensor) -> Tensor:
    kept = whole(weight.detach())[keep.to(weight.device)]
    return kept.abs() if kept.is_complex() else kept.float()


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
