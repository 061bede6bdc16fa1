"""Does the mask still change? Distances between masks drawn epoch after epoch, and two rules.

You et al. (2020), Drawing early-bird tickets, section 3.2: the distance of two masks is the share
of their bits that differ, and a ticket is found when masks have stopped moving. The paper and its
published code do not use the same rule; both are here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltpl.masks.errors import unknown

NEARLY = 1 - 1e-9  # 2 * (1 - 0.95) is a little more than 0.1
_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


def random_distance(amount: float) -> float:
    """Return how far two random masks are from each other that prune this share."""
    return 2 * amount * (1 - amount)


def largest_distance(amount: float) -> float:
    """Return how far two masks can be from each other at most that prune this share."""
    return 2 * min(amount, 1 - amount)


def threshold(amount: float, eps: float, relative: bool = False) -> float:
    """Return the distance under which two masks that prune `amount` count as equal.

    Args:
        amount: Share that the masks prune.
        eps: The distance, or its share of the distance of random masks.
        relative: Whether `eps` is such a share: times 2p(1-p).

    Raises:
        ValueError: If no two masks could be as far from each other: a ticket is always "found".

    Example:
        >>> threshold(0.5, 0.1), threshold(0.5, 0.1, relative=True)
        (0.1, 0.05)
    """
    if not 0 < eps < 1:
        raise ValueError(f"eps={eps}: a distance between masks, above 0 and below 1.")
    limit = eps * random_distance(amount) if relative else eps
    largest, chance = largest_distance(amount), random_distance(amount)
    if limit > largest * NEARLY:
        raise ValueError(
            f"eps={eps} with amount={amount}: masks that prune this share differ in {largest:.3g} "
            "of their bits at most, so a ticket would always be found. Lower eps, or use "
            "relative=True: eps times 2p(1-p)."
        )
    if limit > chance * NEARLY:
        warnings.warn(
            f"eps={eps} with amount={amount}: two random masks differ in {chance:.3g} of their "
            "bits, so even masks that have nothing in common count as equal. Lower eps, or use "
            "relative=True: eps times 2p(1-p).",
            stacklevel=3,
        )
    return limit


@dataclass(frozen=True)
class Rule:
    """When masks have stopped moving.

    Args:
        masks: From `window`: how many masks are needed.
        looks_at: From distances (the newest mask last) and `window`: those that have to be small.
        strict: Whether they have to be below the threshold; otherwise at it is enough.
    """

    masks: Callable[[int], int]
    looks_at: Callable[[Tensor, int], Tensor]
    strict: bool

    def holds(self, compared: Tensor, limit: float) -> bool:
        """Whether all these distances are small."""
        return bool(((compared < limit) if self.strict else (compared <= limit)).all())


def consecutive(distances: Tensor, window: int) -> Tensor:
    """Return the last `window` distances between masks of one epoch and the next."""
    return distances.diagonal(1)[-window:]


def newest(distances: Tensor, window: int) -> Tensor:
    """Return the distances of the newest mask to the `window` - 1 masks before it."""
    return distances[-1, -window:-1]


RULES: dict[str, Rule] = {
    "paper": Rule(lambda window: window + 1, consecutive, strict=True),
    "window": Rule(lambda window: window, newest, strict=False),
}


def check_rule(rule: str, window: int) -> Rule:
    """Return a rule by name.

    Raises:
        ValueError: If it is unknown, or the window too short for it.
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    if isinstance(window, bool) or not isinstance(window, int) or RULES[rule].masks(window) < 2:
        least = 1 if rule == "paper" else 2
        raise ValueError(f"window={window} with rule={rule!r}: a whole number from {least} on.")
    return RULES[rule]


@dataclass
class History:
    """Masks as they were drawn, one bit for each thing that is pruned, and all their distances.

    Args:
        bits: How many bits a mask has.
        epochs: After how many epochs each was drawn; 0 is initialisation.
        packed: The masks, eight bits a byte.
        distances: Of each mask to each.

    Example:
        >>> history = History()
        >>> history.add(1, torch.tensor([True, True, False, False]))
        >>> history.add(2, torch.tensor([True, False, True, False]))
        >>> history.distances[0, 1].item()
        0.5
    """

    bits: int = 0
    epochs: list[int] = field(default_factory=list)
    packed: list[Tensor] = field(default_factory=list)
    distances: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.double))

    def add(self, epoch: int, keep: Tensor) -> None:
        """Add the mask of an epoch: a flat boolean tensor.

        Raises:
            ValueError: If it has another number of bits than those before, or comes too late.
        """
        if self.epochs and (keep.numel() != self.bits or epoch <= self.epochs[-1]):
            raise ValueError(
                f"The mask of epoch {epoch} has {keep.numel()} bits; that of epoch "
                f"{self.epochs[-1]} had {self.bits}. Masks of one network come in order."
            )
        new = torch.from_numpy(np.packbits(keep.detach().cpu().numpy()))
        self.bits = keep.numel()
        row = [_differing(old, new) / self.bits for old in self.packed]
        before, many = self.distances, len(row)
        self.distances = before.new_zeros(many + 1, many + 1)
        self.distances[:many, :many] = before
        self.distances[many, :many] = self.distances[:many, many] = before.new_tensor(row)
        self.epochs.append(epoch)
        self.packed.append(new)

    def keep(self, index: int) -> Tensor:
        """Return one of the masks as a flat boolean tensor."""
        flat = np.unpackbits(self.packed[index].numpy(), count=self.bits)
        return torch.from_numpy(flat.view(np.bool_))

    def trained(self) -> Tensor:
        """Return the distances among the masks that a rule may look at.

        Those of the epochs in a row up to now; never that of initialisation.
        """
        epochs, first = self.epochs, len(self.epochs)
        while (
            first
            and epochs[first - 1] > 0
            and epochs[-1] - epochs[first - 1] == (len(epochs) - first)
        ):
            first -= 1
        return self.distances[first:, first:]

    def state(self) -> dict[str, Any]:
        """Return numbers and tensors only."""
        return {**vars(self), "epochs": list(self.epochs), "packed": list(self.packed)}


class Detector:
    """Watches the masks of one amount and says when they have stopped moving.

    Args:
        rule: `paper`: the last `window` distances between consecutive epochs are all below
            `limit`, so at least `window` + 1 masks are needed (You et al., 2020, section 3.2).
            `window`, as in their published code: the newest mask is at most `limit` from each of
            the `window` - 1 masks before it. The mask of initialisation never counts.
        window: Length of the window, 5 in the paper and in the code.
        limit: See `threshold`.

    Raises:
        ValueError: If the rule is unknown or the window too short.

    Example:
        >>> detector = Detector("window", window=2, limit=0.1)
        >>> [detector.add(epoch, torch.ones(8, dtype=torch.bool)) for epoch in (0, 1, 2, 3)]
        [False, False, True, False]
        >>> detector.found
        2
    """

    def __init__(self, rule: str = "paper", window: int = 5, limit: float = 0.1):
        self.rule = check_rule(rule, window)
        self.window = window
        self.limit = limit
        self.history = History()
        self.found: int | None = None

    def add(self, epoch: int, keep: Tensor) -> bool:
        """Add the mask of an epoch; say whether a ticket is found, the first time, just now.

        Where layers or channels came or went (unfrozen, compacted), masks do not compare with those
        before: history begins anew, or ends if a ticket was found in it.
        """
        if keep.numel() != self.history.bits:
            if self.found is not None:
                return False
            self.history = History()
        self.history.add(epoch, keep)
        compared = self.compared()
        if self.found is None and compared is not None and self.rule.holds(compared, self.limit):
            self.found = epoch
            return True
        return False

    def compared(self) -> Tensor | None:
        """Return the distances that the rule looks at now; None while masks are too few."""
        distances = self.history.trained()
        if len(distances) < self.rule.masks(self.window):
            return None
        return self.rule.looks_at(distances, self.window)

    def measured(self) -> dict[str, float]:
        """Return the newest mask's distances, those that there are.

        `to_previous`: to the mask one epoch before. `to_window`: the largest that the rule looks
        at. `to_init`: to the mask of initialisation.
        """
        values, distances = {}, self.history.trained()
        if len(distances) > 1:
            values["to_previous"] = float(distances[-1, -2])
        if (compared := self.compared()) is not None:
            values["to_window"] = float(compared.max())
        if len(distances) and self.history.epochs[0] == 0:
            values["to_init"] = float(self.history.distances[-1, 0])
        return values

    def state(self) -> dict[str, Any]:
        """Return numbers and tensors only."""
        return {"history": self.history.state(), "found": self.found}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state()` returned."""
        history = state["history"]
        lists = {name: list(history[name]) for name in ("epochs", "packed")}
        self.history = History(**{**history, **lists})
        self.found = state["found"]


def _differing(first: Tensor, second: Tensor) -> int:
    return int(_ONES[first.numpy() ^ second.numpy()].sum(dtype=np.int64))
