"""`Masking`: what every callback that holds a mask has in common."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from ltpl.callbacks.averages import mask_averages
from ltpl.callbacks.ranks import must_agree
from ltpl.callbacks.sizing import Sizing
from ltpl.masks.enforce import Enforcement
from ltpl.masks.mask import Mask
from ltpl.masks.paths import cut_off
from ltpl.masks.select import described, named_parameters, prunable
from ltpl.masks.shards import whole

FLAT = "it flattens parameters, and a mask needs their shapes"
REFUSED = {
    "FSDPStrategy": FLAT,
    "XLAFSDPStrategy": FLAT,
    "DeepSpeedStrategy": "its engine steps copies of the weights that no callback reaches",
}


class Masking(Sizing):
    """Hold a mask and keep pruned weights, their gradients and optimiser slots at exactly zero.

    Parameters stay plain: checkpoints load into the unpruned model with `strict=True`, already
    sparse. The mask itself travels in the callback's state.

    Args:
        include: Which parameters may be pruned, see `ltpl.masks.prunable`.
        exclude: Which may not.
        frozen: Whether parameters with `requires_grad=False` may be pruned.
    """

    def __init__(
        self,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        frozen: bool = False,
    ):
        self.include = include
        self.exclude = exclude
        self.frozen = frozen
        self.mask: Mask | None = None
        self.pinned = False
        self.removed = 0
        self._enforcement: Enforcement | None = None
        self._handles: list[RemovableHandle] = []
        self._bound: list[int] = []
        self._unproven: set[str] = set()
        self._module: weakref.ref[nn.Module] | None = None

    @property
    def state_key(self) -> str:
        """Two callbacks of one class that prune different parameters keep separate states."""
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    def prunable(self, pl_module: nn.Module) -> dict[str, nn.Parameter]:
        """Return the parameters this callback may prune, by name."""
        return prunable(pl_module, self.include, self.exclude, self.frozen)

    def shrink(self, smaller: Mask) -> None:
        """Go on with what the mask says of a compacted network; nothing is bound to it yet."""
        assert self.mask is not None
        self.removed += self.mask.total - smaller.total
        self.mask = smaller

    def hold(self, pl_module: nn.Module, mask: Mask, pinned: bool = False) -> None:
        """Start the next fit of `pl_module` with a mask.

        Args:
            pl_module: The module that will be trained.
            mask: What is kept.
            pinned: Whether pruned weights stay at their values instead of zero.
        """
        mask.must_fit(named_parameters(pl_module))
        self.mask, self.pinned, self._module = mask, pinned, weakref.ref(pl_module)

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        for kind in type(trainer.strategy).__mro__:
            if why := REFUSED.get(kind.__name__):
                raise ValueError(
                    f"{type(self).__name__} does not work with {kind.__name__}: {why}. Use "
                    "ModelParallelStrategy with fully_shard (FSDP2), strategy='ddp' or one device."
                )
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if self._module is not None and self._module() is not pl_module:
            self.mask, self.pinned, self.removed = None, False, 0
        self._module = weakref.ref(pl_module)

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.must_agree(trainer)
        chosen = self.prunable(pl_module)
        rank_zero_info(f"{type(self).__name__} may touch {described(chosen, pl_module)}")
        self._warn_of_strangers(trainer, chosen)
        self.enforce(trainer, pl_module)

    def must_agree(self, trainer: Any) -> None:
        """Raise on every process if they hold different masks."""
        held = self.mask
        digest = (lambda: None) if held is None else (lambda: held.digest)
        must_agree(trainer, type(self).__name__, "the mask", digest)

    def _warn_of_strangers(self, trainer: Any, chosen: dict[str, nn.Parameter]) -> None:
        stepped = {p for o in trainer.optimizers for g in o.param_groups for p in g["params"]}
        if strangers := [n for n, p in chosen.items() if p.requires_grad and p not in stepped]:
            rank_zero_warn(
                f"{type(self).__name__}: no optimiser holds {', '.join(strangers)}; were these "
                "parameters replaced after the optimiser was built? Their training is not masked."
            )

    def enforce(self, trainer: Any, pl_module: Any) -> None:
        """Bind the mask to the live parameters, averages and optimisers, from now on."""
        self._release()
        if self.mask is None:
            return
        parameters = named_parameters(pl_module)
        pinned = {n: parameters[n].detach().clone() for n in self.mask} if self.pinned else None
        if not self.pinned:
            self.mask.apply_(pl_module)
            mask_averages(trainer, pl_module, self.mask)
        self._enforcement = Enforcement(parameters, self.mask, pinned)
        masked = _gradients_stay_masked(trainer, pl_module)
        attach = self._enforcement.attach
        self._handles = [h for o in trainer.optimizers for h in attach(o, masked)]
        self._bound = self._binding(trainer, pl_module)

    def still_enforced(self, trainer: Any, pl_module: Any) -> bool:
        """Whether mask, parameters and optimisers are those that were bound; zeros are set anew."""
        if self._enforcement is None or self._bound != self._binding(trainer, pl_module):
            return False
        self._enforcement.zero_weights(named_parameters(pl_module).values())
        return True

    def _binding(self, trainer: Any, pl_module: nn.Module) -> list[int]:
        parameters = named_parameters(pl_module)
        groups = [group["params"] for o in trainer.optimizers for group in o.param_groups]
        stepped = [id(parameter) for group in groups for parameter in group]
        held = [id(parameters.get(name)) for name in self.mask or ()]
        return [id(self.mask), *map(id, trainer.optimizers), *stepped, *held]

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._enforcement = [], None

    @override
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if self._enforcement is not None:
            self._enforcement.zero_gradients()

    @override
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        if self._enforcement is None:
            return
        if self._unproven:
            self._prove_paths(pl_module, optimizer)
        if not pl_module.automatic_optimization:  # it may call backward itself, without the hook
            self._enforcement.zero_gradients()

    def _prove_paths(self, pl_module: Any, optimizer: Optimizer) -> None:
        """Alarm, once after each pruning, if no gradient reaches a layer of this optimiser.

        A layer without any gradient was not used in this step: it is looked at when it is.
        """
        stepped = {p for group in optimizer.param_groups for p in group["params"]}
        parameters = named_parameters(pl_module)
        # sorted: all processes gather the same gradient at a time
        found = {n: parameters[n].grad for n in sorted(self._unproven) if parameters[n] in stepped}
        here = {name: whole(gradient) for name, gradient in found.items() if gradient is not None}
        silent = sorted(cut_off(here))
        self._unproven.difference_update(here)
        if silent:
            everything = "no path from input to output is left" if len(silent) == len(here) else ""
            rank_zero_warn(
                f"{type(self).__name__}: no gradient reaches {', '.join(silent)} after the "
                f"pruning{': ' + everything if everything else ''}. A layer after it is empty or "
                "its kept weights do not meet; prune less, or raise min_keep."
            )

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._release()

    @override
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._release()

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.mask is None:
            return {}
        return {
            "mask": self.mask.packed(),
            "shapes": self.mask.shapes,
            "pinned": self.pinned,
            "removed": self.removed,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "mask" in state_dict:
            self.mask = Mask.unpacked(state_dict["mask"], state_dict["shapes"])
            self.pinned = state_dict["pinned"]
            self.removed = state_dict.get("removed", 0)

    def __getstate__(self) -> dict[str, Any]:
        live: dict[str, Any] = {"_module": None, "_enforcement": None, "_handles": []}
        return {**self.__dict__, **live}


def _gradients_stay_masked(trainer: Any, pl_module: Any) -> bool:
    """Whether only Lightning's own code runs between `on_after_backward` and the step."""
    hooks = [callback.on_before_optimizer_step for callback in trainer.callbacks]
    hooks += [pl_module.on_before_optimizer_step, pl_module.configure_gradient_clipping]
    hooks += [pl_module.optimizer_step]
    known = (__name__, "pytorch_lightning.", "lightning.pytorch.")
    return pl_module.automatic_optimization and all(h.__module__.startswith(known) for h in hooks)


def tell(trainer: Any, event: str, *arguments: Any) -> None:
    """Call `event` on every callback of the Trainer that has a method of this name."""
    for callback in trainer.callbacks:
        method = getattr(callback, event, None)
        if callable(method):
            method(trainer, *arguments)


def maskers(trainer: Any) -> list[Masking]:
    """Return the callbacks of the Trainer that hold masks."""
    return [callback for callback in trainer.callbacks if isinstance(callback, Masking)]


def live_mask(trainer: Any) -> Mask | None:
    """Return what all masking callbacks of the Trainer together keep, or None."""
    keep: dict[str, Tensor] = {}
    for masker in maskers(trainer):
        for name, kept in (masker.mask or {}).items():
            keep[name] = keep[name] & kept.to(keep[name].device) if name in keep else kept
    return Mask(keep) if keep else None
