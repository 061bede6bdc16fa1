"""`NetworkSlimming`: thin channels out while training, then prune the thinnest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from ltpl.callbacks.network import what_is_left
from ltpl.callbacks.penalty import L1Penalty, after_clipping, measured
from ltpl.callbacks.pruning import PruneAtEpoch
from ltpl.callbacks.scoring import silenced, training_batches
from ltpl.callbacks.trunk import AlongGraph, coupled
from ltpl.masks.channel_scores import find_score
from ltpl.masks.channels import LayerChannels, channel_mask, table, told
from ltpl.masks.errors import LARGEST_FACTOR, unknown
from ltpl.masks.mask import Mask
from ltpl.masks.norms import check_kinds, gammas, scale_names, scaled_norms
from ltpl.masks.schedule import AtEpochs, Schedule
from ltpl.masks.select import named_parameters
from ltpl.masks.units import REDUCTIONS, TRUNKS, units_of

STEPS = ("subgradient", "proximal")


class NetworkSlimming(PruneAtEpoch):
    """Network slimming (Liu et al., 2017): L1 on scaling factors, then whole channels go.

    The scaling factors (gamma) of normalisation layers are drawn to zero while training; at an
    epoch, or when training ends, exactly `amount` of all channels are pruned, the smallest first.
    Gamma *and* beta of a pruned channel are zero from then on, so that the channel can be removed
    without changing what the network computes. Liu et al. start from gamma = 0.5, with
    l1 = 1e-4 (VGG) and 1e-5 (ResNet-164, DenseNet-40).

    The penalty is added once a step to what the optimiser sees: after accumulation, after the
    gradients were averaged over processes, unscaled and *clipped*. So it is as strong as asked for
    under every precision and clipping, as in a script that clips between `backward` and the
    penalty.

    Logged each epoch: `slim/l1` (sum of |gamma|), `slim/zero` (factors that are exactly zero),
    `slim/small` (share below 0.01), and, once something is pruned, `ticket/channels`.

    Args:
        l1: Strength of the penalty; 0 prunes without one.
        amount: Share of channels to prune, 0 <= amount < 1; a list gives one for each epoch. With
            null nothing is pruned, and only the penalty acts.
        epoch: When to prune: how many epochs have been trained, a list of that, or a schedule; when
            training ends if not given.
        step: How the penalty acts: `subgradient` adds l1 * sign(gamma) to the gradient (as
            published; never exactly zero); `proximal` shrinks gamma by lr * l1 after the step, to
            exact zeros. Momentum m multiplies the first alone, by 1 / (1 - m).
        penalty_after: Whether the penalty goes on after the last pruning, also one by `EarlyBird`:
            not in the fine-tuning of Liu et al., but in the retraining of early-bird tickets.
        kinds: Kinds of normalisation layers: `batch`, `instance`, `group`, `layer`. The last two
            take statistics across channels: masked, but never removed.
        include: Globs or exact paths of normalisation layers; all of these kinds if not given.
        exclude: Globs or exact paths of layers that are neither penalised nor pruned.
        score: What is kept: `gamma`, `l1`, `l2` (norm of the filters), `taylor`, `random`, or the
            dotted path of a function.
        trunk: Channels that a residual network adds together: `all` layers are pruned channel by
            channel, trunk or not; `inner` keeps the trunk; `group` lets added channels live and
            die together.
        reduction: What such a group is worth: the `max` or `mean` of its channels; or `union`:
            it stays if any of its channels, ranked alone, does.
        of: What `amount` is a share of: `all` channels, or the `remaining`.
        min_keep: At least so many channels of each layer stay; others go instead.
        batches: How many training batches `taylor` sees.
        seed: Seed of random choices.

    Raises:
        ValueError: If an option is out of range or a name is unknown.

    Example:
        >>> from ltpl.callbacks import NetworkSlimming
        >>> NetworkSlimming(l1=1e-4, amount=0.7, epoch=160).amounts
        [0.7]
    """

    binds_each_epoch = True  # the fit may freeze and unfreeze what is penalised

    def __init__(
        self,
        l1: float = 1e-4,
        amount: float | list[float] | None = 0.5,
        epoch: int | list[int] | Schedule | None = None,
        step: str = "subgradient",
        penalty_after: bool = False,
        kinds: str | list[str] = "batch",
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        score: str | Callable[..., Any] = "gamma",
        trunk: str = "all",
        reduction: str = "max",
        of: str = "all",
        min_keep: int = 1,
        batches: int = 1,
        seed: int = 0,
    ):
        for option, given, allowed in (
            ("step", step, STEPS),
            ("trunk", trunk, TRUNKS),
            ("reduction", reduction, REDUCTIONS),
        ):
            if given not in allowed:
                raise unknown(option, given, allowed)
        if not 0 <= l1 <= LARGEST_FACTOR:
            raise ValueError(f"l1={l1}: a strength, 0 <= l1 <= {LARGEST_FACTOR:g}.")
        if amount is None and epoch is not None:
            raise ValueError(f"epoch={epoch!r} with amount=None: how much shall be pruned there?")
        super().__init__(
            epochs=epoch,
            amount=0.0 if amount is None else amount,
            of=of,
            include=include,
            exclude=exclude,
            min_keep=min_keep,
            batches=batches,
            seed=seed,
        )
        self.prunes = amount is not None
        found = find_score(score)
        self.criterion = found if trunk == "all" else AlongGraph(found.name, found.score)
        self.l1 = l1
        self.step = step
        self.penalty_after = penalty_after
        self.kinds = check_kinds(kinds)
        self.trunk = trunk
        self.reduction = reduction
        self._thinned = False
        self._penalty = L1Penalty([], l1)
        self._shrinking: list[RemovableHandle] = []

    @override
    def prunable(self, pl_module: nn.Module) -> dict[str, nn.Parameter]:
        """Return gamma and beta of the layers this callback may prune, by name."""
        parameters = named_parameters(pl_module)
        names = scale_names(self.norms(pl_module)).values()
        return {name: parameters[name] for pair in names for name in pair}

    def norms(self, pl_module: nn.Module, frozen: bool = False) -> dict[str, nn.Module]:
        """Return the normalisation layers that are thinned out, by path.

        Args:
            pl_module: The module.
            frozen: Whether layers count that are frozen now.
        """
        return scaled_norms(pl_module, self.kinds, self.include, self.exclude, frozen)

    @property
    def penalises(self) -> bool:
        """Whether the penalty acts now: until the last pruning, or for good."""
        if self.l1 == 0 or self.penalty_after:
            return self.l1 > 0
        if not self.pruned_at:
            return not self._thinned
        last = _last(self.schedule)
        return last is None or self.pruned_at[-1] < last

    def on_prune(self, trainer: Any, pl_module: Any, mask: Mask) -> None:
        """Take note if another callback has pruned channels while this one only penalises."""
        names = scale_names(self.norms(pl_module, frozen=True)).values()
        self._thinned |= not self.prunes and any(pair[0] in mask for pair in names)

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.current_epoch == 0:
            self._thinned = False

    @override
    def enforce(self, trainer: Any, pl_module: Any) -> None:
        super().enforce(trainer, pl_module)
        self._penalty = L1Penalty(gammas(self.norms(pl_module, frozen=True)).values(), self.l1)
        if self.step == "proximal":
            self._shrinking = [o.register_step_post_hook(self._shrink) for o in trainer.optimizers]

    @override
    def _release(self) -> None:
        super()._release()
        for handle in self._shrinking:
            handle.remove()
        self._penalty, self._shrinking = L1Penalty([], self.l1), []

    @override
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        if self.step != "subgradient" or not self.penalises:
            return
        scaled = getattr(optimizer, "_step_supports_amp_scaling", False)  # unscales as it steps
        scaler = getattr(trainer.precision_plugin, "scaler", None) if scaled else None
        add = partial(self._add, optimizer, scaler)
        if pl_module.automatic_optimization:
            after_clipping(pl_module, add)
        else:  # the module has clipped before it stepped
            add()

    def _add(self, optimizer: Optimizer, scaler: Any) -> None:
        self._penalty.add_(optimizer, scaler)
        if self.pinned and self._enforcement is not None:
            self._enforcement.zero_gradients()

    def _shrink(self, optimizer: Optimizer, *_: object) -> None:
        if self.penalises:
            self._penalty.shrink_(optimizer)
        if self.pinned and self._enforcement is not None:
            self._enforcement.zero_weights(self._penalty.parameters)

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        values = self.measure(pl_module)  # the same on every rank
        several = trainer.world_size > 1
        pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=several)

    def measure(self, pl_module: nn.Module) -> dict[str, Tensor | float]:
        """Return what is logged of the scaling factors."""
        factors = gammas(self.norms(pl_module, frozen=True)).values()
        values: dict[str, Tensor | float] = {**measured(factors)}
        if self.mask is not None:
            values["ticket/channels"] = float(sum(row.kept for row in self.table(pl_module)))
        return values

    @override
    def _is_due(self, epoch: int, ended: bool) -> bool:
        return self.prunes and super()._is_due(epoch, ended)

    @override
    def prune(self, trainer: Any, pl_module: Any) -> None:
        super().prune(trainer, pl_module)
        assert self.mask is not None
        rank_zero_info(told(self.table(pl_module), self.mask.metadata))
        # on every process: a training step may talk to the others before it calls the network
        rank_zero_info(what_is_left(pl_module, self.mask, training_batches(trainer, 1)[0]))

    def table(self, pl_module: nn.Module) -> list[LayerChannels]:
        """Return one row for each layer: channels kept, channels in all."""
        return table(self.mask or Mask.dense(self.prunable(pl_module)), pl_module)

    @override
    def draw(
        self,
        pl_module: nn.Module,
        amount: float | None,
        of: str,
        mask: Mask | None,
        seed: int,
        **evidence: Any,
    ) -> Mask:
        assert amount is not None
        options = {name: evidence.get(name) for name in ("batches", "loss", "reduce")}
        score = self.criterion
        if isinstance(score, AlongGraph):  # a rehearsal of rounds counts by another score, without
            score = score.alone
            graph = coupled(pl_module, self.norms(pl_module), evidence["batches"][0])
            options["units"] = units_of(self.trunk, graph.units, graph.trunk)
            options["producers"] = graph.producers
        looks_at_loss = "loss" in score.needs
        with silenced(pl_module) if looks_at_loss else contextlib.nullcontext():
            return channel_mask(
                pl_module,
                amount,
                of=of,
                score=score,
                min_keep=self.min_keep,
                reduction=self.reduction,
                kinds=self.kinds,
                include=self.include,
                exclude=self.exclude,
                mask=mask,
                seed=seed,
                **options,
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"thinned": self._thinned}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._thinned = state_dict["thinned"]

    @override
    def __getstate__(self) -> dict[str, Any]:
        live: dict[str, Any] = {"_penalty": L1Penalty([], self.l1), "_shrinking": []}
        return {**super().__getstate__(), **live}


def _last(schedule: Schedule) -> int | None:
    """The last pruning that a schedule knows of."""
    if isinstance(schedule, AtEpochs):
        return schedule.epochs[-1]
    return getattr(schedule, "last", None)
