"""`Supermask`: train a mask over weights that stay as they were initialised."""

from __future__ import annotations

from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch.optim import Optimizer
from typing_extensions import override

from ltpl.callbacks.averages import averaged_copies
from ltpl.callbacks.folder import callback_folder
from ltpl.callbacks.masking import REFUSED, maskers
from ltpl.callbacks.pruning import PruneAtEpoch
from ltpl.callbacks.ranks import must_agree
from ltpl.callbacks.sizing import Sizing
from ltpl.masks.errors import LARGEST_FACTOR, check_seed, unknown
from ltpl.masks.mask import Mask
from ltpl.masks.schedule import Never
from ltpl.masks.select import prunable
from ltpl.masks.shards import any_sharded
from ltpl.masks.supermask import ScoredWeights
from ltpl.tickets.lineage import Lineage
from ltpl.tickets.start import sign_constant

FILE = "supermask.safetensors"
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class Supermask(Sizing):
    """Train a mask, not weights: the supermasks of Zhou et al. (2019), section 5.

    Each prunable weight stays at its initial value and has a score s instead. A training step sees
    the weights under a mask that is one with probability sigmoid(s); the gradient goes straight
    through the draw. Between steps, and so whenever something validates, tests or saves, the
    module holds the weights under one fixed mask; when training has ended it is `mask`, and
    `supermask.safetensors` beside the logs.

    Parameters stay plain. Scores have an optimiser of their own, which neither the module's
    schedule nor clipping reaches. Logged each epoch: `supermask/density`. In rounds it is for the
    dense round: `levels=0`.

    Args:
        lr: Learning rate of the scores.
        optimizer: What trains them: `sgd` or `adam`.
        momentum: Of `sgd`.
        mask: What a training step sees: `sampled`, a draw; or `threshold`, the fixed mask itself.
        fixed: What the fixed mask is after `sampled`: `drawn`, one draw, ever from the same random
            numbers (the paper draws too); or `positive`, s > 0, which is a worse network as long as
            scores are undecided. After `threshold` it is s > 0.
        amount: Share of each layer that the fixed mask leaves out, the lowest scores, as in
            edge-popup (Ramanujan et al., 2020); with `threshold` alone.
        weights: What is masked: the `initial` weights, or `signed_constant`, their signs times the
            standard deviation of their layer.
        rescale: Whether weights are multiplied by the layer's total / kept ("dynamic weight
            rescaling").
        others: Whether all other parameters, such as biases, are `frozen` or `trained` as usual.
        include: Which weights are masked, see `ltpl.masks.prunable`; all matrices and kernels if
            not given.
        exclude: Which are not.
        seed: Seed of first scores and draws; in rounds, so is the replicate's number.

    Raises:
        ValueError: If an option is out of range or a name is unknown.

    Example:
        >>> from ltpl.callbacks import Supermask
        >>> callbacks = [Supermask(weights="signed_constant", rescale=True)]
    """

    def __init__(
        self,
        lr: float = 100.0,
        optimizer: str = "sgd",
        momentum: float = 0.9,
        mask: str = "sampled",
        fixed: str = "drawn",
        amount: float | None = None,
        weights: str = "initial",
        rescale: bool = False,
        others: str = "frozen",
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        seed: int = 0,
    ):
        for option, given, allowed in (
            ("optimizer", optimizer, [*OPTIMIZERS]),
            ("mask", mask, ["sampled", "threshold"]),
            ("fixed", fixed, ["drawn", "positive"]),
            ("weights", weights, ["initial", "signed_constant"]),
            ("others", others, ["frozen", "trained"]),
        ):
            if given not in allowed:
                raise unknown(option, given, allowed)
        if not 0 <= lr <= LARGEST_FACTOR:
            raise ValueError(f"lr={lr}: 0 <= lr <= {LARGEST_FACTOR:g}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: 0 <= momentum < 1.")
        if amount is not None and (mask == "sampled" or not 0 <= amount < 1):
            raise ValueError(
                f"amount={amount} with mask={mask!r}: a share to leave out, 0 <= amount < 1, with "
                "mask='threshold'."
            )
        self.lr = lr
        self.optimizer = optimizer
        self.momentum = momentum
        self.sampled = mask == "sampled"
        self.drawn = self.sampled and fixed == "drawn"
        self.amount = amount
        self.weights = weights
        self.rescale = rescale
        self.others = others
        self.include = include
        self.exclude = exclude
        self.seed = check_seed("seed", seed)
        self._replicate = 0
        self._forget()

    def _forget(self) -> None:
        self._scored: ScoredWeights | None = None
        self._steps: Optimizer | None = None
        self._came_with: dict[str, Any] = {}

    @property
    def mask(self) -> Mask:
        """What is kept now.

        Raises:
            ValueError: If nothing has been trained yet.
        """
        if self._scored is None:
            raise ValueError("Supermask has no mask yet: fit first.")
        return self._scored.mask

    def check_levels(self, levels: int) -> None:
        """Refuse rounds that prune what has never been trained."""
        if levels:
            raise ValueError(
                f"levels={levels} with Supermask: it trains no weights that a round could prune. "
                "Give levels=0, the dense round alone."
            )

    def on_round(self, trainer: Any, pl_module: Any, lineage: Lineage) -> None:
        """Draw other scores for each replicate."""
        self._replicate = lineage.seed

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise ValueError("Supermask does not work with manual optimisation.")
        live = set(pl_module.parameters())
        held = {} if self._scored is None else self._scored.parameters
        if trainer.current_epoch == 0 or not live.issuperset(held.values()):
            self._forget()

    @override
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        self._must_be_alone(trainer, pl_module)
        if self._scored is None:
            self._begin(pl_module)

    def _must_be_alone(self, trainer: Any, pl_module: Any) -> None:
        """Refuse what would change weights, or would not see them as they are."""
        kinds = {kind.__name__ for kind in type(trainer.strategy).__mro__}
        if not kinds.isdisjoint(REFUSED) or any_sharded(pl_module):
            raise ValueError(
                f"Supermask does not work with {type(trainer.strategy).__name__}: parameters have "
                "to be whole. Use strategy='ddp' or one device."
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                "Supermask does not work with precision='16-mixed', whose gradients are scaled: "
                "use 'bf16-mixed'."
            )
        if any(isinstance(o, torch.optim.LBFGS) for o in trainer.optimizers):
            raise ValueError("Supermask does not work with LBFGS, which runs a step several times.")
        if next(averaged_copies(trainer, pl_module), None) is not None:
            raise ValueError("Supermask: averaged weights are no supermask; average nothing.")
        for masker in maskers(trainer):
            waits = isinstance(masker, PruneAtEpoch) and isinstance(masker.schedule, Never)
            if not waits or (masker.mask is not None and masker.mask.kept < masker.mask.total):
                raise ValueError(
                    f"Supermask beside {type(masker).__name__}: both would hold a mask over the "
                    "same weights; leave one of them out."
                )

    def _begin(self, pl_module: Any) -> None:
        chosen = prunable(pl_module, self.include, self.exclude)
        if self.weights == "signed_constant" and not self._came_with:
            with torch.no_grad():
                for parameter in chosen.values():
                    parameter.copy_(sign_constant(parameter))
        self._scored = ScoredWeights(
            chosen,
            self.sampled,
            self.drawn,
            self.amount,
            self.rescale,
            (self.seed, self._replicate),
        )
        momentum = {"momentum": self.momentum} if self.optimizer == "sgd" else {}
        scores = self._scored.scores.values()
        self._steps = OPTIMIZERS[self.optimizer](scores, lr=self.lr, **momentum)
        if self._came_with:
            self._scored.load_state_dict(self._came_with)
            self._steps.load_state_dict(self._came_with["optimizer"])

    @override
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._scored is not None
        self._scored.draw_()

    @override
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        assert self._scored is not None
        self._scored.collect_()
        if self.others == "frozen":
            for parameter in pl_module.parameters():
                parameter.grad = None

    @override
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        assert self._scored is not None
        assert self._steps is not None
        if trainer.world_size > 1:  # DDP averages the last of the gradients that are accumulated
            for score in self._scored.scores.values():
                if score.grad is not None:
                    score.grad = trainer.strategy.reduce(score.grad, reduce_op="mean")
        self._steps.step()
        self._steps.zero_grad()

    @override
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._scored is not None
        self._scored.settle_()

    @override
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._scored is not None:
            self._scored.settle_()

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        assert self._scored is not None
        several = trainer.world_size > 1  # the same on every rank
        pl_module.log("supermask/density", self._scored.density, sync_dist=several)

    @override
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        mask = self.mask
        must_agree(trainer, "Supermask", "the mask", lambda: mask.digest)
        path = callback_folder(trainer) / FILE
        if trainer.is_global_zero:
            mask.save(path)
        rank_zero_info(
            f"Supermask: {mask.kept:,} of {mask.total:,} weights are kept ({mask.density:.2%}): "
            f"{path}"
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._scored is None or self._steps is None:
            return {}
        return {**self._scored.state_dict(), "optimizer": self._steps.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._came_with = state_dict
