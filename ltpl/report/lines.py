"""`Run` and `Line`: what a run folder holds, as the report reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltpl.tickets.result import Result, branches, results
from ltpl.tickets.summary_rows import FILE as SUMMARY
from ltpl.tickets.summary_rows import read_summary

RECORD = "run.json"
SHIPPED = "results"  # a folder that experiments ship; its parent says of what


@dataclass(frozen=True)
class Line:
    """The finished rounds of a run's main line, or of one of its branches.

    Args:
        folder: What holds `seed_0/round_00` and so on.
        branch: Name of the branch; None for the main line.
        kind: What the branch does, such as `reinit`, where it says so.
        results: One for each seed and round, by seed and round.
        record: What `run.json` or `branch.json` says; fields may be missing.
    """

    folder: Path
    branch: str | None
    kind: str | None
    results: list[Result]
    record: dict[str, Any] = field(default_factory=dict)

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

    @property
    def does(self) -> str | None:
        """The kind of the branch, or its name, which is its kind where nothing else is said."""
        return self.kind or self.branch

    @property
    def policy(self) -> str | None:
        """How its tickets go on, such as `rewind` or `finetune`; None if nothing says so."""
        found = {str(r.made_by.get("policy") or "") for r in self.results if r.round}
        return (found.pop() or None) if len(found) == 1 else None

    def option(self, name: str) -> Any:
        """Return an option of the branch, or of a run's plan; None if it is not recorded."""
        config = self.record.get("config")
        options = config.get("branch", config) if isinstance(config, dict) else None
        return options.get(name) if isinstance(options, dict) else None

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
        folders: The runs; one given twice is read once. A folder may hold no more than a
            `summary.csv` and `branches/NAME/summary.csv`, as experiments ship them, perhaps with
            CSV files of rounds.

    Raises:
        ValueError: If none is given, or one does not exist, is no run, has no finished round, or
            has a summary that is broken.
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
    recorded = (folder / RECORD).is_file()
    others = [_line(path, path.name, "branch.json") for path in branches(folder)]
    others = [line for line in others if line.results]
    if not (recorded or (folder / SUMMARY).is_file() or others):
        raise ValueError(f"{folder} is no run: it holds no {RECORD}, and no {SUMMARY} either.")
    main = _line(folder, None, RECORD)
    if not str(main.record.get("format", "ltpl.run/")).startswith("ltpl.run/"):
        raise ValueError(
            f"{folder} is no run: the format of its run.json is {main.record['format']!r}."
        )
    if not (main.results or others):
        raise ValueError(f"{folder} has no finished round: no seed_*/round_*/result.json is there.")
    return Run(name, folder, main.record, main, others)


def _line(folder: Path, branch: str | None, record: str) -> Line:
    """Return what was finished; what a summary says of it, where only that is at hand."""
    about = _json(folder / record) if (folder / record).is_file() else {}
    found = results(folder)
    if (folder / SUMMARY).is_file() and _has_no_rounds(folder):
        found = read_summary(folder / SUMMARY, branch)
    kind = about.get("kind") if branch is not None else None
    return Line(folder, branch, None if kind is None else str(kind), found, about)


def _has_no_rounds(folder: Path) -> bool:
    """Whether all that is at hand of rounds are CSV files: those that ran have left more."""
    return all(path.suffix == ".csv" for path in folder.glob("seed_*/round_*/*"))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no whole JSON file.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; it should hold an object.")
    return content


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell the folders apart, and of what they are."""
    depth = 1
    while True:
        names = ["/".join(f.parts[-depth:]) for f in folders]
        if len(set(names)) == len(names) and SHIPPED not in names:
            return names
        depth += 1
