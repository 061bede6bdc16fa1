"""Which channels of a LightningModule are added together, asked of its network's graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from ltpl.callbacks.network import network_of
from ltpl.masks.criteria import Criterion

if TYPE_CHECKING:
    from ltpl.compaction.groups import Coupling


class AlongGraph(Criterion):
    """A channel score that needs a batch, to follow it through the network."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The arguments of the score, and batches."""
        return tuple(dict.fromkeys([*super().needs, "batches"]))

    @property
    def alone(self) -> Criterion:
        """The score without the batch that it does not look at itself."""
        return Criterion(self.name, self.score)


def coupled(pl_module: nn.Module, norms: Iterable[str], batch: Any) -> Coupling:
    """Follow a batch through the network and return which channels are added together.

    Args:
        pl_module: The module.
        norms: Paths of normalisation layers.
        batch: A training batch.

    Raises:
        ValueError: If a training step does not call the network, or it cannot be followed.
    """
    from ltpl.compaction.groups import Coupling, coupling  # it loads torch.export

    place = network_of(pl_module, batch)
    prefix = place.prefix
    found = coupling(place.module, place.arguments, [norm.removeprefix(prefix) for norm in norms])
    units, trunk, producers = found.units, found.trunk, found.producers
    return Coupling(
        {prefix + norm: ids for norm, ids in units.items()},
        {prefix + norm: added for norm, added in trunk.items()},
        {prefix + norm: (prefix + name, dim) for norm, (name, dim) in producers.items()},
    )
