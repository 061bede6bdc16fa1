"""`Run` and `Line`: what a run folder holds, as the report reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltpl.tickets.result import Result, branches, results

RECORD = "run.json"


@dataclass(frozen=True)
class Line:
    """The finished rounds of a run's main line, or of one of its branches.

    Args:
        folder: What holds `seed_0/round_00` and so on.
        branch: Name of the branch; None for the main line.
        kind: What the branch does, such as `reinit`, where it says so.
        results: One for each seed and round, by seed and round.
    """

    folder: Path
    branch: str | None
    kind: str | None
    results: list[Result]

    @property
    def rounds(self) -> list[int]:
        """The rounds that at least one seed has finished."""
        return sorted({r.round for r in self.results})

    @property
    def title(self) -> str:
        """How tables and figures call the line."""
        if self.branch is None:
            return "ticket"
        return self.branch if self.kind in (None, self.branch) else f"{self.branch} ({self.kind})"

    def level(self, number: int) -> list[Result]:
        """Return the results of a round, one for each seed that has finished it."""
        return [r for r in self.results if r.round == number]


@dataclass(frozen=True)
class Run:
    """One run: its record and its lines, the main line first.

    Args:
        name: How the report calls it.
        folder: Where it lives.
        record: What `run.json` says; fields may be missing.
        main: The main line.
        branches: Its branches that have finished a round, by name.
    """

    name: str
    folder: Path
    record: dict[str, Any]
    main: Line
    branches: list[Line]

    @property
    def lines(self) -> list[Line]:
        """The main line and the branches."""
        return [self.main, *self.branches]


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read run folders.

    Args:
        folders: The runs; one given twice is read once.

    Raises:
        ValueError: If none is given, or one does not exist, is no run, or has no finished round.
    """
    if not folders:
        raise ValueError("No run is given; give at least one folder that holds a run.json.")
    distinct = list({Path(f).resolve(): Path(f) for f in folders}.items())
    names = _names([resolved for resolved, _ in distinct])
    return [_read(given, name) for (_, given), name in zip(distinct, names, strict=True)]


def _read(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no folder; give the folder of a run, which holds a run.json."
        )
    if not (folder / RECORD).is_file():
        raise ValueError(f"{folder} is no run: it holds no run.json.")
    record = _json(folder / RECORD)
    if not str(record.get("format", "ltpl.run/")).startswith("ltpl.run/"):
        raise ValueError(f"{folder} is no run: the format of its run.json is {record['format']!r}.")
    main = Line(folder, None, None, results(folder))
    others = []
    for path in branches(folder):
        if found := results(path):
            about = _json(path / "branch.json") if (path / "branch.json").is_file() else {}
            kind = about.get("kind")
            others.append(Line(path, path.name, None if kind is None else str(kind), found))
    if not (main.results or others):
        raise ValueError(f"{folder} has no finished round: no seed_*/round_*/result.json is there.")
    return Run(name, folder, record, main, others)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no whole JSON file.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; it should hold an object.")
    return content


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell the folders apart."""
    depth = 1
    while True:
        names = ["/".join(f.parts[-depth:]) for f in folders]
        if len(set(names)) == len(names):
            return names
        depth += 1
