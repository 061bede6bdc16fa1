"""`Expectation`: what a paper, or an earlier run, says that a run should find."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ltpl.masks.errors import check_folder_name, check_least, check_types, shown, unknown
from ltpl.report.measures import MEASURES
from ltpl.tickets.fields import MOST

MAIN, DENSE = "ticket", "dense"


@dataclass(frozen=True)
class Place:
    """A round of a line.

    Args:
        run: Name of another run; None for the run itself.
        line: `ticket` for the main line, or the name of a branch.
        round: The round.
    """

    run: str | None
    line: str
    round: int

    @classmethod
    def parse(cls, text: str, option: str = "of") -> Place:
        """Read `ticket@7`, `dense`, `BRANCH@7`, each also behind `RUN:`.

        Args:
            text: What is written.
            option: Where it is written.

        Raises:
            ValueError: If it is written otherwise.

        Example:
            >>> Place.parse("other:reinit@7")
            Place(run='other', line='reinit', round=7)
        """
        head, at, number = text.rpartition("@") if "@" in text else (text, "", "")
        run, colon, line = head.rpartition(":")
        level = int(number) if re.fullmatch(r"[0-9]{1,5}", number) else None
        if line == DENSE and not at:
            level = 0
        if level is None or level > MOST or (line == DENSE and level):
            raise ValueError(
                f"{option}={shown(text)}: write LINE@ROUND: ticket@7, or a branch such as "
                "reinit@7; dense stands alone; RUN: before it names another run."
            )
        for name in [line, *([run] if colon else [])]:
            check_folder_name(option, name)
        return cls(run if colon else None, MAIN if line == DENSE else line, level)

    def __str__(self) -> str:
        line = DENSE if (self.line, self.round) == (MAIN, 0) else f"{self.line}@{self.round}"
        return line if self.run is None else f"{self.run}:{line}"


@dataclass(frozen=True)
class Expectation:
    """One claim, and the numbers that decide it.

    Args:
        claim: The claim, one sentence.
        of: Which round is measured: `ticket@7`, `dense`, `BRANCH@7`; `RUN:ticket@7` of another run.
        measure: What is measured: `test_acc`, `val_acc`, `start_acc`, `pruned_acc`,
            `early_stop_step`, `density`, `density_all`, `weights_left`, `epochs` or `seconds`; of a
            `reorder` branch `instability`, with BatchNorm estimated again, and `raw_instability`.
            Accuracies and densities are in per cent, instability in points.
        minus: The round whose measure is taken off, seed by seed.
        over: The round by whose measure it is divided, seed by seed.
        value: What is expected, ...
        tolerance: ... and how far off the mean may be.
        at_least: Or the least that is expected.
        at_most: Or the most that is expected.
        seeds: With fewer finished seeds nothing is decided.
        number: Number of the claim in a list of claims.
        source: Who says so, and where.
    """

    claim: str
    of: str
    measure: str = "test_acc"
    minus: str | None = None
    over: str | None = None
    value: float | None = None
    tolerance: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    seeds: int = 1
    number: int | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        check_types(Expectation, vars(self))
        if not self.claim.strip():
            raise ValueError(f"claim={self.claim!r}: one sentence is wanted.")
        if self.measure not in MEASURES:
            raise unknown("measure", self.measure, MEASURES)
        for option in ("of", "minus", "over"):
            if (text := getattr(self, option)) is not None:
                Place.parse(text, option)
        if self.minus is not None and self.over is not None:
            raise ValueError("minus and over: a difference or a ratio, not both.")
        check_least("seeds", self.seeds, 1)
        check_least("number", 1 if self.number is None else self.number, 1)
        for option in ("value", "tolerance", "at_least", "at_most"):
            if not math.isfinite(given := getattr(self, option) or 0):
                raise ValueError(f"{option}={given}: a finite number is wanted.")
        self._check_bounds()

    def _check_bounds(self) -> None:
        around = self.value is not None, self.tolerance is not None
        bounds = self.at_least is not None, self.at_most is not None
        if any(around) == any(bounds) or any(around) != all(around):
            raise ValueError(
                "value, tolerance, at_least, at_most: give value with tolerance, or at_least, "
                "at_most or both of them."
            )
        if (self.tolerance or 0) < 0:
            raise ValueError(f"tolerance={self.tolerance}: 0 or more.")
        low, high = self.range
        if low > high:
            raise ValueError(f"at_least={self.at_least} is more than at_most={self.at_most}.")

    @property
    def range(self) -> tuple[float, float]:
        """The least and the most that agree."""
        if self.value is not None and self.tolerance is not None:
            return self.value - self.tolerance, self.value + self.tolerance
        low = -math.inf if self.at_least is None else self.at_least
        return low, math.inf if self.at_most is None else self.at_most


def expectations(entries: Any) -> list[Expectation]:
    """Return what an `expect` block says.

    Args:
        entries: The block as YAML or JSON has it: a list with the options of each expectation;
            None for no block.

    Raises:
        ValueError: If an entry is wrong; the message says which.

    Example:
        >>> [said] = expectations([{"claim": "It learns.", "of": "dense", "at_least": 90}])
        >>> said.range
        (90, inf)
    """
    if entries is None:
        return []
    if not isinstance(entries, Sequence) or isinstance(entries, (str, bytes, bytearray)):
        raise ValueError(f"expect={shown(entries)}: a list of expectations is wanted.")
    return [_expectation(entry, number) for number, entry in enumerate(entries, 1)]


def _expectation(entry: Any, number: int) -> Expectation:
    names = [field.name for field in fields(Expectation)]
    try:
        if isinstance(entry, Expectation):
            return entry
        if not isinstance(entry, Mapping):
            raise ValueError(f"{shown(entry)}: options such as claim and of are wanted.")
        if strange := [name for name in entry if name not in names]:
            raise unknown("option", strange[0], names)
        if missing := [name for name in ("claim", "of") if name not in entry]:
            raise ValueError(f"{missing[0]} is missing.")
        return Expectation(**entry)
    except ValueError as error:
        raise ValueError(f"expect, entry {number}: {error}") from None


def expected_in(file: str | Path) -> list[Expectation]:
    """Return what the `expect` block of a config says; nothing else in it is looked at.

    Args:
        file: The config.

    Raises:
        ValueError: If it cannot be read, has no such block, or an entry is wrong.
    """
    try:
        content = yaml.safe_load(Path(file).read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"config={shown(str(file))} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ValueError(f"config={shown(str(file))} is no YAML file.") from None
    block = content.get("expect") if isinstance(content, dict) else None
    if not block:
        raise ValueError(f"config={shown(str(file))} has no `expect` block.")
    try:
        return expectations(block)
    except ValueError as error:
        raise ValueError(f"config={file}: {error}") from None
