"""`Result`: what one finished round measured, in one JSON file, written last."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ltpl.masks.files import whole_file
from ltpl.tickets.fields import must_be_sound

FORMAT = "ltpl.result/2"
UNSEALED = "ltpl.result/1"  # of earlier versions: without a digest
FILE = "result.json"


@dataclass(frozen=True)
class Result:
    """What one finished round measured.

    Args:
        seed: The replicate.
        round: How many prunings came before; 0 is the dense network.
        kept: Prunable weights that are left.
        total: Prunable weights.
        parameters: All parameters, biases and the like included; 0 if that is not known.
        layers: Name, kept and total of each pruned parameter.
        live_inputs: Features of the input that lead to an output; None if that is not known.
        inputs: Features of the input.
        live_paths: Paths of kept weights from an input to an output.
        dead: Pruned parameters through whose kept weights no path runs.
        start: Validation metrics of the ticket before training.
        pruned: Validation metrics of the mask over the trained weights that it was drawn from.
        early_stop: Validation metrics where the validation loss was lowest.
        early_stop_step: That step.
        end: Validation metrics when training ended.
        steps: Optimiser steps when training ended.
        test: Test metrics, measured once.
        val_acc: Validation accuracy that the summary shows, where there is one.
        test_acc: Test accuracy, where there is one.
        start_acc: The accuracy in `start`.
        pruned_acc: The accuracy in `pruned`.
        seconds: Training time, interruptions left out.
        epochs: Epochs that this round has trained; None if an epoch has no end.
        made_by: Policy, seeds and digests: what would make it again.
        branch: Name of the branch; None in the main line.
        files: Digests of what the round has left, by file name.
    """

    seed: int
    round: int
    kept: int
    total: int
    parameters: int
    layers: list[tuple[str, int, int]]
    live_inputs: int | None = None
    inputs: int | None = None
    live_paths: float | None = None
    dead: list[str] = field(default_factory=list)
    start: dict[str, float] = field(default_factory=dict)
    pruned: dict[str, float] = field(default_factory=dict)
    early_stop: dict[str, float] = field(default_factory=dict)
    early_stop_step: int | None = None
    end: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    test: dict[str, float] = field(default_factory=dict)
    val_acc: float | None = None
    test_acc: float | None = None
    start_acc: float | None = None
    pruned_acc: float | None = None
    seconds: float = 0.0
    epochs: float | None = None
    made_by: dict[str, Any] = field(default_factory=dict)
    branch: str | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def density(self) -> float:
        """Share of the prunable weights that are left."""
        return self.kept / self.total if self.total else 1.0

    @property
    def density_all(self) -> float:
        """Share of all parameters that are left; not a number if it is not known."""
        if not self.parameters:
            return math.nan
        return (self.parameters - self.total + self.kept) / self.parameters

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all."""
        shares = {"density": self.density, "density_all": self.density_all}
        content = {"format": FORMAT, **asdict(self), **shares}
        with whole_file(path) as beside:
            beside.write_text(json.dumps({**content, "digest": _digest(content)}, indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read what `save` wrote.

        Raises:
            ValueError: If the file is something else, cut short or changed.
        """
        try:
            content = json.loads(Path(path).read_text())
            found, digest = content.get("format"), content.pop("digest", None)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise ValueError(f"{path} is no result of a round.") from None
        if found not in (FORMAT, UNSEALED):
            raise ValueError(f"{path} is no result of a round: its format is {found!r}.")
        if found == FORMAT and digest != _digest(content):
            raise ValueError(f"{path} was changed after it was written: its digest differs.")
        for derived in ("format", "density", "density_all"):
            content.pop(derived, None)
        try:
            must_be_sound(content)
            content["layers"] = [tuple(layer) for layer in content["layers"]]
            return cls(**content)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no result of a round: {error}.") from None


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def results(folder: str | Path) -> list[Result]:
    """Return the finished rounds of a run's main line, or of a branch, by seed and round.

    Args:
        folder: A run, or a branch of it: what holds `seed_0/round_00` and so on.
    """
    files = Path(folder).glob(f"seed_*/round_*/{FILE}")
    return sorted((Result.load(f) for f in files), key=lambda r: (r.seed, r.round))


def branches(run: str | Path) -> list[Path]:
    """Return the folders of a run's branches, by name; `epoch_2` comes before `epoch_10`."""
    found = sorted(p for p in Path(run, "branches").glob("*") if p.is_dir())
    return sorted(found, key=lambda p: _DIGITS.sub(lambda digits: digits[0].zfill(9), p.name))


_DIGITS = re.compile(r"[0-9]+")
_LEVEL = re.compile(r"round_(\d+)")


def round_folder(folder: str | Path, seed: int, level: int) -> Path:
    """Return where a round of a run, or of a branch, lives."""
    return Path(folder, f"seed_{seed}", f"round_{level:02}")


def seeds_and_rounds(folder: str | Path) -> list[tuple[int, int, Path]]:
    """Return seed, round and path of every round folder, finished or not."""
    found = []
    for path in Path(folder).glob("seed_*/round_*"):
        level = _LEVEL.fullmatch(path.name)
        seed = path.parent.name.removeprefix("seed_")
        if level and seed.isdecimal():
            found.append((int(seed), int(level[1]), path))
    return sorted(found)
