"""What `EarlyBird` has left in the dense training: the distances between masks of all epochs."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ltpl.masks.stability import Detector, History
from ltpl.report.lines import Run
from ltpl.report.spread import per_cent
from ltpl.tickets.result import round_folder

_LARGEST = 20_000_000  # bytes: a thousand epochs
_LATEST = 1_000_000_000


@dataclass(frozen=True)
class Watched:
    """What an `EarlyBird` has measured in the dense training of one seed, for one amount.

    Args:
        label: How the legend calls it.
        seed: The replicate.
        amount: Share that the masks prune.
        detector: Its rule and threshold, all distances, and the epoch that was found.
    """

    label: str
    seed: int
    amount: float
    detector: Detector

    @property
    def epochs(self) -> list[int]:
        """After how many epochs masks were drawn."""
        return self.detector.history.epochs

    def measured(self, what: str) -> dict[int, float]:
        """Return `to_previous` or `to_window` by epoch, as it was known then.

        Args:
            what: See `Detector.measured`.
        """
        values = {}
        for count in range(1, len(self.epochs) + 1):
            until = copy.copy(self.detector)
            distances = self.detector.history.distances[:count, :count]
            until.history = History(epochs=self.epochs[:count], distances=distances)
            if what in (found := until.measured()):
                values[self.epochs[count - 1]] = found[what]
        return values


def watched(runs: Sequence[Run]) -> list[Watched]:
    """Return what was watched in the dense trainings, by run, seed, name and amount.

    Args:
        runs: The runs. A file that is missing or damaged is no reason for a report to fail.
    """
    found = []
    for run in runs:
        for result in run.main.level(0):
            files = sorted(round_folder(run.folder, result.seed, 0).glob("*.json"))
            records = {path.stem: record for path in files if (record := _record(path))}
            for name, record in records.items():
                before = [run.name] * (len(runs) > 1) + [name] * (len(records) > 1)
                for amount, detector in _detectors(record):
                    label = " ".join([*before, f"{per_cent(amount).removesuffix('.0')} % pruned"])
                    found.append(Watched(label, result.seed, amount, detector))
    return found


def _record(path: Path) -> dict[str, Any] | None:
    """Return what a file says if it is one of `EarlyBird`."""
    try:
        record = json.loads(path.read_text("utf-8")) if path.stat().st_size < _LARGEST else None
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("amounts"), dict) else None


def _detectors(record: dict[str, Any]) -> Iterator[tuple[float, Detector]]:
    """Yield each amount with what was measured for it, as far as that is sound."""
    for amount, content in record["amounts"].items():
        try:
            share = float(amount)
            detector = Detector(record["rule"], record["window"], float(content["threshold"]))
            epochs, found = [int(epoch) for epoch in content["epochs"]], content["found"]
            apart = torch.tensor(content["distances"], dtype=torch.double)
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError):
            continue
        ordered = len(epochs) > 1 and epochs == sorted(set(epochs))
        if (
            ordered
            and 0 <= epochs[0] <= epochs[-1] <= _LATEST
            and apart.shape == (len(epochs), len(epochs))
            and bool(((apart >= 0) & (apart <= 1)).all())
            and 0 < share < 1
            and 0 < detector.limit <= 1
            and (found is None or found in epochs)
        ):
            detector.history = History(epochs=epochs, distances=apart)
            detector.found = found
            yield share, detector
