"""`PruneAtEpoch`: prune any LightningModule while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn
from typing_extensions import override

from ltpl.callbacks.folder import store, stored_smaller
from ltpl.callbacks.masking import Masking, live_mask, tell
from ltpl.callbacks.ranks import mean_over_ranks, of_first, one_voice
from ltpl.callbacks.scoring import silenced, training_batches, training_loss
from ltpl.masks.allocate import check_options
from ltpl.masks.criteria import find_criterion
from ltpl.masks.errors import check_least, check_seed
from ltpl.masks.mask import Mask
from ltpl.masks.prune import prune
from ltpl.masks.schedule import AtEpochs, PerRound, Schedule, as_schedule
from ltpl.masks.shards import must_lie_here
from ltpl.tickets.snapshot import Snapshot


class PruneAtEpoch(Masking):
    """Prune at epochs: remove the worst weights and keep them removed.

    "Epoch k" means that k epochs have been trained: the start of epoch k, counted from 0. If
    training ends there, pruning happens as it ends.

    Args:
        epochs: When: an epoch (one-shot), a list of epochs, or a schedule: `Every`, `Cubic`,
            `PerRound`; when training ends if not given.
        amount: Share to prune each time, 0 <= amount < 1; a list gives one for each epoch or
            round. The default is 0.2; an N:M scope takes none.
        of: What `amount` is a share of: the `remaining` weights, or `all`.
        scope: Which weights compete: `global`, `layer`, `erk`, or `N:M`, such as `2:4`.
        criterion: What is kept: a name such as `magnitude`, `movement`, `random`, `snip`, or the
            dotted path of a function.
        rates: Factors on the amount by kind, glob or name: `{"output": 0.5}` prunes the output
            layer at half the rate, 0 exempts.
        include: What may be pruned: globs, exact names or kinds; all matrices and kernels if not
            given.
        exclude: What may not be pruned.
        frozen: Whether parameters with `requires_grad=False` may be pruned.
        min_keep: At least so many weights of each parameter stay.
        batches: How many training batches a criterion that looks at data sees.
        seed: Seed of random choices.

    Raises:
        ValueError: If an option is out of range or a name is unknown.

    Example:
        >>> from ltpl.callbacks import PruneAtEpoch
        >>> PruneAtEpoch(epochs=[10, 20], amount=0.2, rates={"output": 0.5}).amounts
        [0.2]
    """

    prunes = True  # or whether it only watches, or penalises
    binds_each_epoch = False

    def __init__(
        self,
        epochs: int | list[int] | Schedule | None = None,
        amount: float | list[float] | None = None,
        of: str = "remaining",
        scope: str = "global",
        criterion: str | Callable[..., Any] = "magnitude",
        rates: dict[str, float] | None = None,
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        frozen: bool = False,
        min_keep: int = 1,
        batches: int = 1,
        seed: int = 0,
    ):
        super().__init__(include, exclude, frozen)
        self.schedule = PerRound() if epochs is None else as_schedule(epochs)
        self.amounts = _amounts(amount, self.schedule, scope)
        for each in self.amounts:
            check_options(each, of, scope, min_keep)
        self.of = of
        self.scope = scope
        self.criterion = find_criterion(criterion)
        self.rates = rates
        self.min_keep = min_keep
        self.batches = check_least("batches", batches, 1)
        self.seed = check_seed("seed", seed)
        self.pruned_at: list[int] = []
        self._first_density = 1.0
        self._initial_path: str | None = None

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.current_epoch == 0:
            self.pruned_at, self._initial_path = [], None

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        if {"model", "batches"}.intersection(self.criterion.needs):
            must_lie_here(f"{type(self).__name__}: criterion, score or trunk", pl_module)
        if "init" in self.criterion.needs and self._initial_path is None:
            self._keep_initial(trainer, pl_module)

    def _keep_initial(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step:
            rank_zero_warn(
                f"PruneAtEpoch: criterion {self.criterion.name!r} looks at the weights before "
                f"training, but this fit starts after {trainer.global_step} steps from a "
                "checkpoint without them; it sees the weights of now instead."
            )
        snapshot = Snapshot.take("0ep", pl_module)
        self._initial_path = store(trainer, snapshot, "initial.safetensors")

    @override
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.binds_each_epoch or not self.still_enforced(trainer, pl_module):
            self.enforce(trainer, pl_module)
        self._prune_if_due(trainer, pl_module, ended=False)

    @override
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        # Resumed from a checkpoint of an epoch's last batch, Lightning starts the next epoch
        # without `on_train_epoch_start`.
        if batch_idx == 0:
            self._prune_if_due(trainer, pl_module, ended=False)

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._prune_if_due(trainer, pl_module, ended=True)
        if isinstance(self.schedule, AtEpochs) and not trainer.fast_dev_run:
            missed = [e for e in self.schedule.epochs if e not in self.pruned_at]
            if missed:
                rank_zero_warn(
                    f"{type(self).__name__}: training ended after {trainer.current_epoch} epochs, "
                    f"so it never pruned at {missed}."
                )
        super().on_train_end(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._prune_if_due(trainer, pl_module, ended=True)
        self._release()

    def _prune_if_due(self, trainer: Any, pl_module: Any, ended: bool) -> None:
        """Prune with every other pruner that is due, before anything is rewound."""
        epoch = trainer.current_epoch
        if not self._is_due(epoch, ended):
            return
        tell(trainer, "on_before_prune", pl_module)
        for pruner in trainer.callbacks:
            if isinstance(pruner, PruneAtEpoch) and pruner._is_due(epoch, ended):
                pruner.prune(trainer, pl_module)
                pruner.pruned_at.append(epoch)
        tell(trainer, "on_prune", pl_module, live_mask(trainer))

    def _is_due(self, epoch: int, ended: bool) -> bool:
        return epoch not in self.pruned_at and self.schedule.due(epoch, ended)

    def on_compact(self, trainer: Any, pl_module: Any, found: Any, place: Any) -> None:
        """Let the weights before training lose what the network has lost."""
        self._initial_path = stored_smaller(trainer, pl_module, self._initial_path, found, place)

    def prune(self, trainer: Any, pl_module: Any) -> None:
        """Prune now; the callbacks that rewind or log are not told."""
        before = self.mask or Mask.dense(self.prunable(pl_module))
        amount, of = self._step(trainer.current_epoch, before)
        if amount is not None and of == "all":  # what compaction has removed counts as pruned
            amount = max(0.0, amount + (amount - 1) * self.removed / before.total)
        evidence = self._evidence(trainer)
        with one_voice(trainer):
            mask = self.draw(pl_module, amount, of, self.mask, self.seed, **evidence)
        self.mask = of_first(trainer, mask)
        self.must_agree(trainer)
        self.enforce(trainer, pl_module)
        self._unproven = set(self.mask)
        rank_zero_info(
            f"{type(self).__name__}: after {trainer.current_epoch} epochs {before.density:.2%} -> "
            f"{self.mask.density:.2%} of the prunable weights ({self.mask.kept:,} of "
            f"{self.mask.total:,}), {self.mask.density_of(pl_module):.2%} of all parameters"
        )

    def draw(
        self,
        pl_module: nn.Module,
        amount: float | None,
        of: str,
        mask: Mask | None,
        seed: int,
        **evidence: Any,
    ) -> Mask:
        """Return the mask that these options give; nothing is bound to it.

        Args:
            pl_module: The module; its weights are what is ranked.
            amount: Share to prune.
            of: What it is a share of.
            mask: What was kept until now.
            seed: Seed of random choices.
            **evidence: What the criterion needs besides: `init`, `batches`, `loss`,
                `reduce`.
        """
        looks_at_loss = "loss" in self.criterion.needs
        with silenced(pl_module) if looks_at_loss else contextlib.nullcontext():
            return prune(
                pl_module,
                amount,
                of=of,
                scope=self.scope,
                criterion=self.criterion,
                rates=self.rates,
                mask=mask,
                include=self.include,
                exclude=self.exclude,
                frozen=self.frozen,
                min_keep=self.min_keep,
                seed=seed,
                **evidence,
            )

    def _step(self, epoch: int, before: Mask) -> tuple[float | None, str]:
        """Return amount and unit of this event."""
        event = len(self.pruned_at)
        amount = self.amounts[min(event, len(self.amounts) - 1)]
        progress = self.schedule.progress(epoch)
        if amount is None or progress is None:
            return amount, self.of
        if event == 0:
            self._first_density = before.density
        start = 1 - self._first_density
        final = amount if self.of == "all" else 1 - (1 - amount) * (1 - start)
        return start + (final - start) * progress, "all"

    def _evidence(self, trainer: Any) -> dict[str, Any]:
        """Return what the criterion needs beyond the weights."""
        evidence: dict[str, Any] = {}
        if "init" in self.criterion.needs and self._initial_path is not None:
            evidence["init"] = Snapshot.load(self._initial_path).weights
        if "batches" in self.criterion.needs:
            evidence["batches"] = training_batches(trainer, self.batches)
        if "loss" in self.criterion.needs:
            evidence["loss"] = training_loss
        if "reduce" in self.criterion.needs and trainer.world_size > 1:
            evidence["reduce"] = mean_over_ranks()
        return evidence

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "pruned_at": self.pruned_at,
            "first_density": self._first_density,
            "initial": self._initial_path,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.pruned_at = list(state_dict["pruned_at"])
        self._first_density = state_dict["first_density"]
        self._initial_path = state_dict["initial"]


def _amounts(
    given: float | list[float] | None, schedule: Schedule, scope: str
) -> list[float] | list[None]:
    if given is None:
        return [None] if ":" in scope else [0.2]
    if isinstance(given, (int, float)):
        return [given]
    given = list(given)
    if isinstance(schedule, PerRound) and given:
        return given
    events = len(schedule.epochs) if isinstance(schedule, AtEpochs) else None
    if events != len(given):
        raise ValueError(
            f"amount={given} gives {len(given)} amounts; a list of epochs of the same length is "
            f"needed, not {events or 'a schedule'}."
        )
    return given
