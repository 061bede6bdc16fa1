"""`CompactAfterPruning`: what a callback has pruned is really removed, and training goes on."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn
from typing_extensions import override

from ltpl.callbacks.folder import callback_folder
from ltpl.callbacks.masking import live_mask, maskers, tell
from ltpl.callbacks.namespace import Callback
from ltpl.callbacks.network import Network, network_of
from ltpl.callbacks.places import averages_of, place_at, places_of
from ltpl.callbacks.scoring import training_batches
from ltpl.masks.mask import Mask
from ltpl.masks.select import named_buffers


class CompactAfterPruning(Callback):
    """After each pruning of the same fit, remove what was pruned and go on with a smaller network.

    Parameters stay the same objects, so optimisers, averages and schedules follow; the network is
    compared with the masked one on training batches before anything changes. Checkpoints hold the
    small weights; they resume, and are tested, where this callback is attached.
    `compact.safetensors` beside the logs is what `ltpl.load` reads.

    Put it after the callbacks that prune. It makes training faster where whole channels or neurons
    are pruned, as `NetworkSlimming` and `EarlyBird` do.

    Args:
        round_to: Numbers of channels are raised to multiples of this, with dead ones.
        selection: Whether a BatchNorm may select channels of its input, as pre-activation networks
            need.
        batches: On how many training batches both networks are compared.
        tolerance: The largest difference allowed, as a share of the largest output.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> from ltpl.callbacks import CompactAfterPruning, NetworkSlimming
        >>> callbacks = [NetworkSlimming(epoch=10, amount=0.5), CompactAfterPruning(round_to=8)]
    """

    def __init__(
        self,
        round_to: int = 1,
        selection: bool = True,
        batches: int = 2,
        tolerance: float = 1e-4,
    ):
        if round_to < 1 or batches < 1:
            raise ValueError(f"round_to={round_to}, batches={batches}: both at least 1.")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance={tolerance}: a share of the largest output, above 0.")
        self.round_to = round_to
        self.selection = selection
        self.batches = batches
        self.tolerance = tolerance
        self._module: weakref.ref[nn.Module] | None = None
        self._forget()

    def _forget(self) -> None:
        self.path: str | None = None
        self.spec: dict[str, Any] | None = None
        self.base: dict[str, Any] | None = None
        self.buffers: dict[str, Tensor] = {}
        self._due = False

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if any(getattr(callback, "mask_0", None) == "freeze" for callback in trainer.callbacks):
            raise ValueError(
                "CompactAfterPruning with mask_0='freeze': pruned weights that keep their values "
                "cannot be removed. Use mask_0='zero', or do not compact."
            )
        if self._module is None or self._module() is not pl_module:
            self._forget()
        self._module = weakref.ref(pl_module)
        _unhook(pl_module)
        # Lightning asks callbacks later, and not at all where only weights are saved or loaded.
        saves, loads = pl_module.on_save_checkpoint, pl_module.on_load_checkpoint
        pl_module.on_save_checkpoint = partial(self._while_saving, saves)
        pl_module.on_load_checkpoint = partial(self._before_loading, pl_module, loads)

    @override
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        _unhook(pl_module)

    def _while_saving(self, theirs: Any, checkpoint: dict[str, Any]) -> None:
        theirs(checkpoint)
        checkpoint[KEY] = self.state_dict()

    def _before_loading(self, pl_module: Any, theirs: Any, checkpoint: dict[str, Any]) -> None:
        """Make the network as small as the checkpoint's, before its weights are put in."""
        theirs(checkpoint)
        from ltpl.compaction.rewrite import rebuild
        from ltpl.compaction.spec import Spec, spec_of

        state = checkpoint.get(KEY, {})
        tensors = {_plain(name): tensor for name, tensor in checkpoint["state_dict"].items()}
        prefix = f"{state['path']}." if state.get("path") else ""
        inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if _fits(pl_module, prefix, inside):
            return
        if state.get("spec") is None:
            if self.spec is not None:
                raise ValueError(OTHER)
            return
        spec, base = Spec.from_json(state["spec"]), Spec.from_json(state["base"])
        places = places_of(pl_module, state["path"])
        if any(_differ(spec_of(place.module), base) for _, place in places):
            raise ValueError(OTHER)
        for root, place in places:
            small = rebuild(place.module, spec.since(base), inside | state["buffers"])
            place.put(root, small)

    @override
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Let optimisers made anew hold new biases where those of the checkpoint do."""
        if self.spec is not None and self.base is not None:
            from ltpl.compaction.live import take_up
            from ltpl.compaction.spec import Spec

            added = Spec.from_json(self.spec).since(Spec.from_json(self.base)).biases
            for optimizer in trainer.optimizers:
                take_up(optimizer, place_at(pl_module, self.path or "").module, added)

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse now what cannot be followed, not after all the epochs before the pruning."""
        place = network_of(pl_module, training_batches(trainer, 1)[0])
        from ltpl.compaction.groups import coupling  # it loads torch.export

        coupling(place.module, place.arguments, [])

    def on_prune(self, trainer: Any, pl_module: Any, mask: Mask) -> None:
        """Remember that something was pruned; it is removed when all others have reacted."""
        self._due = True

    @override
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._compact_if_due(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self._compact_if_due(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._compact_if_due(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._compact_if_due(trainer, pl_module)
        if self.spec is None or trainer.fast_dev_run:
            return
        folder = callback_folder(trainer)
        if trainer.is_global_zero:
            from ltpl.compaction.store import FILE, save

            save(place_at(pl_module, self.path or "").module, folder / FILE)
        trainer.strategy.barrier()

    def _compact_if_due(self, trainer: Any, pl_module: Any) -> None:
        if self._due:
            self._due = False
            self._compact(trainer, pl_module)

    def _compact(self, trainer: Any, pl_module: Any) -> None:
        from ltpl.compaction.live import compact_together
        from ltpl.compaction.spec import spec_of

        calls = [network_of(pl_module, b) for b in training_batches(trainer, self.batches)]
        place, mask = calls[0], live_mask(trainer) or Mask({})
        if self.path not in (None, place.path):
            raise ValueError(
                f"CompactAfterPruning: what trains was in {self.path!r} at the pruning before, and "
                f"is in {place.path!r} now. Freeze or unfreeze layers in another fit."
            )
        before, base = sum(p.numel() for p in place.module.parameters()), spec_of(place.module)
        averages = list(averages_of(trainer, pl_module, place.path))
        small, found, copies = compact_together(
            place.module,
            place.inside(mask),
            place.arguments,
            trainer.optimizers,
            [average.module for _, average in averages],
            batches=[call.arguments for call in calls],
            round_to=self.round_to,
            selection=self.selection,
            tolerance=self.tolerance,
            keep_root=place.module is pl_module,
        )
        place.put(pl_module, small)
        for (root, average), copy in zip(averages, copies, strict=True):
            average.put(root, copy)
        for masker in maskers(trainer):
            if masker.mask is not None:
                masker.shrink(_narrowed(masker.mask, found, place))
            masker.must_agree(trainer)
        tell(trainer, "on_compact", pl_module, found, place)
        for masker in maskers(trainer):
            masker.enforce(trainer, pl_module)
        if hasattr(trainer.strategy, "configure_ddp"):
            trainer.strategy.model = pl_module
            trainer.strategy.configure_ddp()
        self.path, self.spec = place.path, spec_of(small).as_json()
        self.base = self.base or base.as_json()
        self.buffers = _passing(small, {*found.kept, *self.buffers})
        after = sum(p.numel() for p in small.parameters())
        rank_zero_info(
            f"CompactAfterPruning: after {trainer.current_epoch} epochs {before:,} -> {after:,} "
            f"parameters ({after / before:.1%}); {found.proof}"
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "spec": self.spec,
            "base": self.base,
            "buffers": self.buffers,
            "due": self._due,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.path, self.spec = state_dict["path"], state_dict["spec"]
        self.base, self.buffers = state_dict["base"], state_dict["buffers"]
        self._due = state_dict["due"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_module": None}


KEY = "ltpl_compaction"
OTHER = (
    "The checkpoint is of the network before it was compacted, or when it had lost other channels "
    "than this module has by now: load it into a new module, or choose a later checkpoint."
)


def _unhook(pl_module: Any) -> None:
    """Take our hooks away again."""
    for name in ("on_save_checkpoint", "on_load_checkpoint"):
        found = vars(pl_module).get(name)
        if isinstance(found, partial) and found.func.__name__ in (
            "_while_saving",
            "_before_loading",
        ):
            delattr(pl_module, name)


def _narrowed(mask: Mask, found: Any, place: Network) -> Mask:
    inside = found.remaining(place.inside(mask))
    others = {n: keep for n, keep in mask.items() if not n.startswith(place.prefix)}
    return Mask({**others, **{place.prefix + n: keep for n, keep in inside.items()}})


def _passing(small: nn.Module, names: set[str]) -> dict[str, Tensor]:
    """Return buffers that got smaller and are not part of checkpoints."""
    persistent = {_plain(name) for name in small.state_dict()}
    return {n: b for n, b in named_buffers(small).items() if n in names and n not in persistent}


def _fits(pl_module: nn.Module, prefix: str, inside: Mapping[str, Tensor]) -> bool:
    own = {_plain(name): tensor.shape for name, tensor in pl_module.state_dict().items()}
    shapes = {prefix + name: tensor.shape for name, tensor in inside.items()}
    return all(own.get(name) == shape for name, shape in shapes.items())


def _differ(one: Any, other: Any) -> bool:
    """Whether two networks were changed in different ways, whatever their classes are called."""
    return any(getattr(one, x) != getattr(other, x) for x in ("selections", "biases", "literals"))


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")
