"""Units: which channels live and die together, and which of them go.

Channels that a network adds together (a residual trunk) are one unit: removing one of them alone
removes nothing. Everything here counts in channels.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ltpl.masks.errors import unknown

TRUNKS = ("all", "inner", "group")
REDUCTIONS = ("max", "mean", "union")
FIXED = -1  # the id of a channel that may not be pruned


@dataclass(frozen=True)
class Unit:
    """Channels that go together, by their position over all layers."""

    score: float
    members: tuple[int, ...]


def units_of(
    policy: str, units: Mapping[str, Tensor], trunk: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Return the unit of each channel under a policy for residual trunks.

    Args:
        policy: `all`: each channel alone, trunk or not. `inner`: the trunk is kept. `group`:
            channels that are added together live and die together.
        units: By layer, one id a channel; channels of equal id hang together, `FIXED` ones stay.
        trunk: By layer, whether a channel is added to others.

    Raises:
        ValueError: If the policy is unknown.

    Example:
        >>> ids = {"bn": torch.tensor([0, 1, 2])}
        >>> units_of("inner", ids, {"bn": torch.tensor([True, False, False])})
        {'bn': tensor([-1,  1,  2])}
    """
    if policy not in TRUNKS:
        raise unknown("trunk", policy, TRUNKS)
    if policy == "all":
        return None
    if policy == "group":
        return dict(units)
    return {path: ids.masked_fill(trunk[path].to(ids.device), FIXED) for path, ids in units.items()}


class Ranking:
    """The channels of all layers in one row, with their scores and units.

    Args:
        scores: One score a channel, by layer.
        alive: Which channels still live, by layer; all where a layer is missing.
        units: The unit of each channel, by layer; `FIXED` may not be pruned. Each channel is alone
            where a layer is missing.

    Raises:
        ValueError: If `alive` or `units` have another length than `scores`.
    """

    def __init__(
        self,
        scores: Mapping[str, Tensor],
        alive: Mapping[str, Tensor],
        units: Mapping[str, Tensor] | None = None,
    ):
        self.layers = list(scores)
        self.sizes = [len(scores[path]) for path in self.layers]
        self.scores: list[float] = []
        self.alive: list[bool] = []
        self.ids: list[int] = []
        self.layer_of = [i for i, size in enumerate(self.sizes) for _ in range(size)]
        own = -2  # below FIXED: a channel without a unit is one of its own
        for path, size in zip(self.layers, self.sizes, strict=True):
            self.scores += scores[path].detach().cpu().double().tolist()
            self.alive += alive[path].tolist() if path in alive else [True] * size
            if units is None or path not in units:
                self.ids += range(own, own - size, -1)
                own -= size
            elif len(units[path]) != size:
                raise ValueError(
                    f"units[{path!r}] has {len(units[path])} entries; the layer has {size} "
                    "channels."
                )
            else:
                self.ids += units[path].tolist()
        for path, kept in alive.items():
            if path in scores and len(kept) != len(scores[path]):
                raise ValueError(f"alive[{path!r}] has another length than its scores.")

    @property
    def open(self) -> list[int]:
        """The channels that live and may be pruned."""
        pairs = enumerate(zip(self.alive, self.ids, strict=True))
        return [i for i, (lives, unit) in pairs if lives and unit != FIXED]

    def to_prune(self, amount: float, of: str) -> int:
        """Return how many channels shall go now."""
        live = len(self.open)
        if of == "remaining":
            return round(amount * live)
        total = sum(u != FIXED for u in self.ids)
        return live - min(live, total - round(amount * total))

    def pruned(self, count: int, min_keep: int, reduction: str = "max") -> dict[str, Tensor]:
        """Return which channels stay, by layer, when the `count` worst go.

        Units go from the worst on, until the next would make them more than `count`; of equal
        ones the first in order of position stays. With `union`, channels are ranked alone and a
        unit stays if any of its members does.

        Args:
            count: How many channels shall go.
            min_keep: At least so many stay in each layer; others go instead.
            reduction: What a unit is worth: the `max` or `mean` of its members, or `union`.

        Raises:
            ValueError: If `min_keep` keeps more than may stay.
        """
        together = self._together()
        if reduction == "union":
            alone = (Unit(self.scores[i], (i,)) for i in self.open)
            gone = self._worst(alone, count, min_keep)
            gone = {i for unit in together if gone.issuperset(unit) for i in unit}
        else:
            value = max if reduction == "max" else _mean
            units = (Unit(value([self.scores[i] for i in u]), u) for u in together)
            gone = self._worst(units, count, min_keep)
        stays = [lives and i not in gone for i, lives in enumerate(self.alive)]
        parts = torch.split(torch.tensor(stays, dtype=torch.bool), self.sizes)
        return dict(zip(self.layers, parts, strict=True))

    def _together(self) -> list[tuple[int, ...]]:
        members = defaultdict(list)
        for i in self.open:
            members[self.ids[i]].append(i)
        return [tuple(unit) for unit in members.values()]

    def _worst(self, units: Iterable[Unit], count: int, min_keep: int) -> set[int]:
        live = Counter(self.layer_of[i] for i, lives in enumerate(self.alive) if lives)
        room = {layer: max(0, n - min_keep) for layer, n in live.items()}
        gone: set[int] = set()
        held: set[int] = set()
        for unit in sorted(units, key=lambda u: (u.score, -u.members[0])):
            if len(gone) == count:
                break
            here = Counter(self.layer_of[i] for i in unit.members)
            if full := [layer for layer, n in here.items() if n > room[layer]]:
                held.update(full)
                continue
            if len(gone) + len(unit.members) > count:
                break
            gone.update(unit.members)
            for layer, n in here.items():
                room[layer] -= n
        else:
            if len(gone) < count:
                raise ValueError(
                    f"{count} of {len(self.open)} channels shall go, but min_keep={min_keep} lets "
                    f"only {len(gone)} go in {len(self.layers)} layers: lower amount or min_keep."
                )
        if held:
            warnings.warn(
                f"min_keep={min_keep} holds channels back in "
                f"{', '.join(self.layers[i] for i in sorted(held))}; others were pruned instead.",
                stacklevel=4,
            )
        return gone


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
