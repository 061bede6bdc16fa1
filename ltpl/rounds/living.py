"""`Living`: the inputs, paths and layers of a ticket that are alive, found at the first step."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from typing_extensions import override

from ltpl.callbacks.masking import live_mask
from ltpl.callbacks.namespace import Callback
from ltpl.callbacks.network import call_of
from ltpl.masks.mask import Mask
from ltpl.masks.paths import Live, live


class Living(Callback):
    """Note what is alive of the network that a round trains; its mask never changes.

    The state travels in the checkpoint, so a round that is resumed knows it too.
    """

    def __init__(self) -> None:
        self.found: Live | None = None

    @override
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        mask = live_mask(trainer)
        if self.found is None and mask is not None:
            self.found = _living(pl_module, mask, batch)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {} if self.found is None else asdict(self.found)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found = Live(**state_dict) if state_dict else None


def _living(pl_module: Any, mask: Mask, batch: Any) -> Live:
    """Return what is alive, by the names of the LightningModule."""
    try:
        place = call_of(pl_module, batch)
        found = live(place.module, place.inside(mask), *place.arguments)
    except Exception:  # a training step that does not end at one network
        return Live(dead=mask.empty)
    dead = tuple(f"{place.prefix}{name}" for name in found.dead)
    return Live(found.inputs, found.inputs_total, found.paths, dead)
