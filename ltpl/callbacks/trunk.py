"""Which channels of a LightningModule are added together, asked of its network's graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ltpl.callbacks.network import network_of
from ltpl.masks.criteria import Criterion


@dataclass(frozen=True)
class Coupled:
    """What the graph says of each normalisation layer, by its path in the LightningModule.

    Args:
        units: One id a channel; channels that are added together have equal ids.
        trunk: Whether a channel is added to others.
        producers: The weight that makes the channels, and the dimension of its outputs.
    """

    units: dict[str, Tensor]
    trunk: dict[str, Tensor]
    producers: dict[str, tuple[str, int]]


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


def coupled(pl_module: nn.Module, norms: Iterable[str], batch: Any) -> Coupled:
    """Follow a batch through the network and return which channels are added together.

    Args:
        pl_module: The module.
        norms: Paths of normalisation layers.
        batch: A training batch.

    Raises:
        ValueError: If a training step does not call the network, or it cannot be followed.
    """
    from ltpl.compaction.groups import coupling  # it loads torch.export, which takes its time

    place = network_of(pl_module, batch)
    prefix = place.prefix
    found = coupling(place.module, place.arguments, [norm.removeprefix(prefix) for norm in norms])
    return Coupled(
        {prefix + norm: units for norm, units in found.units.items()},
        {prefix + norm: added for norm, added in found.trunk.items()},
        {prefix + norm: (prefix + name, dim) for norm, (name, dim) in found.producers.items()},
    )
