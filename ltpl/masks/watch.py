"""`Watch`: several amounts watched at once, each with a detector of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ltpl.masks.candidate import Candidate
from ltpl.masks.mask import Mask
from ltpl.masks.schedule import Schedule
from ltpl.masks.stability import Detector, threshold


class WhenFound(Schedule):
    """Once, when the ticket is found."""

    found: int | None = None

    def due(self, epoch: int, ended: bool = False) -> bool:
        """At that epoch, as soon as it is known."""
        return epoch == self.found


class Watch:
    """The masks of a network, epoch after epoch, for each amount.

    Args:
        amounts: Shares to prune.
        candidate: How masks are drawn.
        rule: See `Detector`.
        window: See `Detector`.
        eps: See `threshold`.
        relative: See `threshold`.

    Raises:
        ValueError: If an option is out of range or a name is unknown.
    """

    def __init__(
        self,
        amounts: Iterable[float],
        candidate: Candidate,
        rule: str = "paper",
        window: int = 5,
        eps: float = 0.1,
        relative: bool = False,
    ):
        self.candidate = candidate
        self.detectors = {p: Detector(rule, window, threshold(p, eps, relative)) for p in amounts}
        self.masks: dict[float, Mask] = {}
        self.options = {"rule": rule, "window": window, "eps": eps, "relative": relative}

    def __getitem__(self, amount: float) -> Detector:
        if amount not in self.detectors:
            raise ValueError(f"amount={amount} is not watched, but {list(self.detectors)}.")
        return self.detectors[amount]

    def draw(self, model: nn.Module) -> dict[float, Mask] | None:
        """Return the mask of each amount; None where scaling factors say nothing."""
        masks = {}
        for amount in self.detectors:
            mask = self.candidate.draw(model, amount)
            if mask is None:
                return None
            masks[amount] = mask.to("cpu")
        return masks

    def add(self, epoch: int, masks: Mapping[float, Mask], model: nn.Module) -> list[float]:
        """Add the masks of an epoch; return the amounts whose ticket is found just now."""
        found = []
        for amount, mask in masks.items():
            if self.detectors[amount].add(epoch, self.candidate.bits(mask, model)):
                self.masks[amount] = mask
                found.append(amount)
        return found

    def measured(self, epoch: int) -> dict[str, float]:
        """Return `distance/AMOUNT`, `to_window/` and `to_init/` of an epoch, and `found/`."""
        values: dict[str, float] = {}
        for amount, detector in self.detectors.items():
            newest = detector.measured() if detector.history.epochs[-1:] == [epoch] else {}
            newest["found"] = float(detector.found is not None)
            tags = {"to_previous": "distance"}
            values |= {f"{tags.get(what, what)}/{amount}": value for what, value in newest.items()}
        return values

    def described(self, amount: float) -> dict[str, Any]:
        """Return how the newest mask of an amount compares, as JSON values."""
        detector = self[amount]
        limits = {**self.options, "threshold": detector.limit}
        return {"epoch": detector.found, **limits, "distances": detector.measured()}

    def numbers(self) -> dict[str, Any]:
        """Return options and all distances, as JSON values."""
        amounts = {
            str(amount): {
                "threshold": detector.limit,
                "found": detector.found,
                "epochs": detector.history.epochs,
                "distances": detector.history.distances.tolist(),
            }
            for amount, detector in self.detectors.items()
        }
        return {**self.options, "channels": self.candidate.channels, "amounts": amounts}

    def state(self) -> dict[str, Any]:
        """Return numbers, strings and tensors only."""
        return {
            "detectors": {str(p): detector.state() for p, detector in self.detectors.items()},
            "masks": {str(p): [m.packed(), m.shapes] for p, m in self.masks.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state()` returned."""
        for amount, detector in self.detectors.items():
            detector.restore(state["detectors"][str(amount)])
        stored = state["masks"]
        self.masks = {p: Mask.unpacked(*stored[str(p)]) for p in self.detectors if str(p) in stored}


def watched(amount: float | list[float]) -> list[float]:
    """Return the amounts as a list.

    Raises:
        ValueError: If there is none, one is no share, or one is there twice.
    """
    amounts = [amount] if isinstance(amount, (int, float)) else list(amount)
    if not amounts or len(set(amounts)) < len(amounts) or not all(0 < p < 1 for p in amounts):
        raise ValueError(f"amount={amount}: shares to prune, 0 < amount < 1, each of them once.")
    return amounts
