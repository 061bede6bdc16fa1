"""`FreezeSparsity`: fine-tune a pruned model and keep it pruned."""

from __future__ import annotations

from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from typing_extensions import override

from ltpl.callbacks.masking import Masking
from ltpl.masks.mask import Mask


class FreezeSparsity(Masking):
    """Whatever weight is zero when training starts stays zero.

    For models pruned elsewhere, by any tool: fine-tune them without losing a zero.

    Args:
        include: Which parameters to look at, see `ltpl.masks.prunable`; all matrices and kernels if
            not given. Biases that start at zero are not meant, so they are not included.
        exclude: Which parameters to leave free.
        frozen: Whether to look at parameters with `requires_grad=False` too.

    Example:
        >>> from ltpl.callbacks import FreezeSparsity
        >>> callbacks = [FreezeSparsity(exclude="head.*")]
    """

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.mask = None

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.mask is None:
            self.mask = Mask.nonzero(self.prunable(pl_module))
            empty = [row.name for row in self.mask.table() if not row.kept]
            if empty:
                rank_zero_warn(
                    f"FreezeSparsity: {', '.join(empty)} is zero everywhere and stays so. If it "
                    "starts at zero and should train, name it in exclude."
                )
            rank_zero_info(
                f"FreezeSparsity: {self.mask.total - self.mask.kept:,} of {self.mask.total:,} "
                f"weights are zero and stay zero (density {self.mask.density:.2%})"
            )
        super().on_train_start(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.enforce(trainer, pl_module)
