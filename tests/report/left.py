"""Files that rounds leave for figures, with random numbers in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ltpl.masks.stability import Detector

HEADER = (
    "alpha,train_error,train_loss,val_error,val_loss,"
    "raw_train_error,raw_train_loss,raw_val_error,raw_val_loss"
)
PLACES = [k / 10 for k in range(11)]


def path_csv(folder: Path, error: Callable[[float], float], raw: bool = True) -> Path:
    lines = [HEADER]
    for alpha in PLACES:
        value = error(alpha)
        more = [value + 0.1, 1.0, value + 0.2, 1.0] if raw else [""] * 4
        lines.append(",".join(map(str, [alpha, value / 2, 1.0, value, 1.0, *more])))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "path.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def bump(height: float) -> Callable[[float], float]:
    return lambda alpha: 0.02 + 0.01 * alpha + height * 4 * alpha * (1 - alpha)


def detectors(amounts: tuple[float, ...], rule: str = "paper", epochs: int = 12) -> dict[str, Any]:
    """Watch masks that change less and less; return what `EarlyBird` writes, and the detectors."""
    found: dict[str, Any] = {}
    for amount in amounts:
        detector = Detector(rule, 3, 0.1)
        keep = torch.rand(400) > amount
        for epoch in range(1, epochs + 1):
            flips = torch.rand(400) < 0.4 * 0.6**epoch
            keep = keep ^ flips
            detector.add(epoch, keep)
        found[str(amount)] = detector
    return found


def record(found: dict[str, Detector], rule: str = "paper") -> dict[str, Any]:
    amounts = {
        amount: {
            "threshold": detector.limit,
            "found": detector.found,
            "epochs": detector.history.epochs,
            "distances": detector.history.distances.tolist(),
        }
        for amount, detector in found.items()
    }
    return {"rule": rule, "window": 3, "eps": 0.1, "channels": "gamma", "amounts": amounts}
