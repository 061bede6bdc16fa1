"""`RewindToEpoch`: after each pruning, go back to where training once was."""

from __future__ import annotations

import sys
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from typing_extensions import override

from ltpl.callbacks.averages import restart_averages
from ltpl.callbacks.folder import must_be_there, store, stored_smaller
from ltpl.callbacks.masking import maskers
from ltpl.callbacks.policy import Policy
from ltpl.callbacks.position import position
from ltpl.callbacks.ranks import must_agree, one_voice
from ltpl.callbacks.sizing import Sizing
from ltpl.masks.errors import check_seed, unknown
from ltpl.masks.mask import Mask
from ltpl.masks.select import named_parameters
from ltpl.masks.shards import whole, write_
from ltpl.tickets.files import digest_of
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.start import KEPT, PRUNED, redraw_, starting_weights, warn_of_other_scale
from ltpl.tickets.step import Step

DEEP = 8  # convolutions: VGG-11 has 8, Conv-6 has 6


class RewindToEpoch(Sizing):
    """After each pruning of the same fit, go back to a snapshot of an early epoch or step.

    What goes back is written to the log and kept in the state: weights, buffers, optimisers,
    learning-rate schedules, averages. The snapshot is a file beside the logs.

    Args:
        epoch: How many epochs are trained before the snapshot; 0 is initialisation.
        policy: `rewind`, `lr_rewind`, `finetune`, `reinit` or `continue`.
        optimizer: Whether the optimiser starts `fresh` or with the snapshot's slots, `restored`.
        at: The moment of the snapshot in steps instead: `500it`, `2ep50it`, `10ep`.
        mask_1: What kept weights start from when rewound: `rewind` (their values),
            `sign_constant`, `reshuffle`, `reinit` (Zhou et al., 2019).
        mask_0: What pruned weights become: `zero`, or `freeze` at the snapshot's value.
        dirpath: Folder of the snapshot; beside the logs if not given.
        seed: Seed of reshuffling and reinitialising.

    Raises:
        ValueError: If an option is unknown or two of them contradict.

    Example:
        >>> from ltpl.callbacks import PruneAtEpoch, RewindToEpoch
        >>> callbacks = [PruneAtEpoch(epochs=[10, 20]), RewindToEpoch(epoch=2)]
    """

    def __init__(
        self,
        epoch: int = 0,
        policy: str = "rewind",
        optimizer: str = "fresh",
        at: str | None = None,
        mask_1: str = "rewind",
        mask_0: str = "zero",
        dirpath: str | None = None,
        seed: int = 0,
    ):
        for option, given, allowed in (
            ("policy", policy, [p.value for p in Policy]),
            ("optimizer", optimizer, ["fresh", "restored"]),
            ("mask_1", mask_1, KEPT),
            ("mask_0", mask_0, PRUNED),
        ):
            if given not in allowed:
                raise unknown(option, given, allowed)
        if epoch < 0 or (epoch and at is not None):
            raise ValueError(f"epoch={epoch}, at={at!r}: give epoch >= 0, or at, not both.")
        self.step = Step(epoch) if at is None else Step.parse(at, "at")
        self.policy = Policy(policy)
        if self.policy is Policy.reinit:
            mask_1 = "reinit"
        elif self.policy is not Policy.rewind and (mask_1, mask_0) != ("rewind", "zero"):
            raise ValueError(
                f"mask_1={mask_1!r}, mask_0={mask_0!r} with policy={policy!r}: these actions "
                "belong to policy='rewind'."
            )
        if optimizer == "restored" and self.policy not in (Policy.rewind, Policy.lr_rewind):
            raise ValueError(
                f"optimizer='restored' with policy={policy!r}: only 'rewind' and 'lr_rewind' can "
                "take the snapshot's momenta back."
            )
        self.optimizer = optimizer
        self.mask_1 = mask_1
        self.mask_0 = mask_0
        self.dirpath = dirpath
        self.seed = check_seed("seed", seed)
        self._forget()

    def _forget(self) -> None:
        self.snapshot_path: str | None = None
        self.history: list[str] = []
        self._epoch_began_at = 0
        self._lr_held = False

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.current_epoch == 0:
            self._forget()

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        must_be_there(trainer, self.snapshot_path)
        finetunes = self.policy is Policy.finetune and trainer.lr_scheduler_configs
        if finetunes and not pl_module.automatic_optimization:
            raise ValueError(
                "policy='finetune' holds the learning rate, but under manual optimization the "
                "module steps its schedulers itself: hold them there, and use policy='continue'."
            )
        if self._lr_held:
            hold_learning_rate(trainer)

    @override
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._epoch_began_at = trainer.global_step
        self._take_snapshot_if_due(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._epoch_began_at = trainer.global_step
        self._take_snapshot_if_due(trainer, pl_module)

    def on_before_prune(self, trainer: Any, pl_module: Any) -> None:
        """Take the snapshot first where pruning and snapshot fall on the same moment."""
        self.on_train_epoch_start(trainer, pl_module)
        if self.snapshot_path is None and self._goes_back:
            raise ValueError(
                f"RewindToEpoch goes back to {self.step}, but a pruning comes before it, after "
                f"{trainer.current_epoch} epochs: prune later or rewind to an earlier moment."
            )

    def on_prune(self, trainer: Any, pl_module: Any, mask: Mask) -> None:
        """Go back, as the policy says."""
        back = {
            Policy.rewind: self._rewind,
            Policy.reinit: self._rewind,
            Policy.lr_rewind: self._rewind_learning_rate,
            Policy.finetune: self._hold_learning_rate,
            Policy.continue_: lambda *_: "nothing goes back",
        }[self.policy](trainer, pl_module, mask)
        for masker in maskers(trainer):
            masker.enforce(trainer, pl_module)
        self.history.append(f"after {trainer.current_epoch} epochs, {self.policy.value}: {back}")
        rank_zero_info(f"RewindToEpoch: {self.history[-1]}")

    def on_compact(self, trainer: Any, pl_module: Any, found: Any, place: Any) -> None:
        """Let the snapshot lose what the network has lost."""
        kept = stored_smaller(trainer, pl_module, self.snapshot_path, found, place, self.dirpath)
        self.snapshot_path = kept

    def _take_snapshot_if_due(self, trainer: Any, pl_module: Any) -> None:
        if not self._goes_back or self.snapshot_path is not None or not self._is_due(trainer):
            return
        snapshot = Snapshot.take(
            str(self.step),
            pl_module,
            trainer.optimizers,
            [config.scheduler for config in trainer.lr_scheduler_configs],
            position(trainer),
        )
        try:
            self.snapshot_path = self._store(trainer, snapshot)
        except TypeError as error:
            raise ValueError(
                f"RewindToEpoch cannot store this fit: {error} A schedule whose state is numbers "
                "(SequentialLR, say) can be rewound; policy='continue' needs no snapshot."
            ) from None
        if self.step.is_start and self.policy is Policy.rewind:
            _warn_of_deep_network(trainer, pl_module)

    def _store(self, trainer: Any, snapshot: Snapshot) -> str:
        return store(trainer, snapshot, "snapshot.safetensors", self.dirpath)

    @property
    def _goes_back(self) -> bool:
        return self.policy in (Policy.rewind, Policy.lr_rewind, Policy.reinit)

    def _is_due(self, trainer: Any) -> bool:
        start = 0 if self.step.epoch is None else self._epoch_began_at
        beyond = trainer.global_step - start - self.step.iteration
        in_epoch = self.step.epoch in (None, trainer.current_epoch)
        # several optimisers advance the step by more than one a batch
        return bool(in_epoch and 0 <= beyond < max(1, len(trainer.optimizers)))

    def _snapshot(self, trainer: Any) -> Snapshot:
        assert self.snapshot_path is not None
        must_be_there(trainer, self.snapshot_path)
        return Snapshot.load(self.snapshot_path)

    def _rewind(self, trainer: Any, pl_module: Any, mask: Mask) -> str:
        (snapshot := self._snapshot(trainer)).restore_weights_(pl_module)
        seed = self.seed + len(self.history)
        if self.mask_1 == "reinit":
            redraw_(pl_module, mask, seed)
            if self.step.is_start:
                with one_voice(trainer):
                    warn_of_other_scale(pl_module, snapshot.weights, mask)
        else:
            _set_kept(pl_module, snapshot, mask, self.mask_1, seed)
        if self.mask_0 == "freeze":
            _set_pruned(pl_module, snapshot, mask)
            for masker in maskers(trainer):
                masker.pinned = True
        else:
            mask.apply_(pl_module)
        now = {name: whole(weight) for name, weight in named_parameters(pl_module).items()}
        must_agree(trainer, "RewindToEpoch", "the rewound network", lambda: digest_of(now, ""))
        averages = ", averages restarted" if restart_averages(trainer, pl_module) else ""
        what = f"weights ({self.mask_1}) and buffers of {self.step}{averages}"
        return f"{what}, {self._rewind_learning_rate(trainer)}"

    def _rewind_learning_rate(self, trainer: Any, *_: Any) -> str:
        snapshot = self._snapshot(trainer)
        for index, config in enumerate(trainer.lr_scheduler_configs):
            snapshot.restore_scheduler_(index, config.scheduler)
        for index, optimizer in enumerate(trainer.optimizers):
            snapshot.restore_optimizer_(index, optimizer, slots=self.optimizer == "restored")
        return f"schedules of {self.step}, optimizers {self.optimizer}, {_learning_rates(trainer)}"

    def _hold_learning_rate(self, trainer: Any, *_: Any) -> str:
        self._lr_held = True
        hold_learning_rate(trainer)
        return f"nothing goes back, schedules stopped, {_learning_rates(trainer)}"

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "snapshot": self.snapshot_path,
            "history": self.history,
            "epoch_began_at": self._epoch_began_at,
            "lr_held": self._lr_held,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.snapshot_path = state_dict["snapshot"]
        self.history = list(state_dict["history"])
        self._epoch_began_at = state_dict["epoch_began_at"]
        self._lr_held = state_dict["lr_held"]


def _set_kept(model: Any, snapshot: Snapshot, mask: Mask, kept: str, seed: int) -> None:
    parameters = named_parameters(model)
    for name, start in starting_weights(snapshot.weights, mask, kept, seed).items():
        write_(parameters[name], start)


def _set_pruned(model: Any, snapshot: Snapshot, mask: Mask) -> None:
    parameters = named_parameters(model)
    for name, keep in mask.items():
        now = whole(parameters[name].detach()).cpu()
        write_(parameters[name], now.where(keep.cpu(), snapshot.weights[name]))


def hold_learning_rate(trainer: Any) -> None:
    """Keep every learning rate where it is: the schedulers are never stepped again."""
    for config in trainer.lr_scheduler_configs:
        config.frequency = sys.maxsize


def _learning_rates(trainer: Any) -> str:
    rates = [f"{g['lr']:.4g}" for o in trainer.optimizers for g in o.param_groups if "lr" in g]
    return f"learning rate {', '.join(dict.fromkeys(rates))}"


def _warn_of_deep_network(trainer: Any, pl_module: Any) -> None:
    convolutions = sum(p.dim() == 4 for p in pl_module.parameters())
    rates = [float(g.get("lr", 0)) for o in trainer.optimizers for g in o.param_groups]
    if convolutions >= DEEP and max(rates, default=0.0) >= 0.1:
        rank_zero_warn(
            f"RewindToEpoch goes back to initialisation, the network has {convolutions} "
            f"convolutions and the learning rate starts at {max(rates):g} without warm-up. Deep "
            "residual and VGG networks have no winning ticket there: training is not yet stable to "
            "data order (Frankle et al., 2020). Rewind to an early epoch (epoch=2), warm up, or "
            "lower the rate."
        )
