"""`RunTree`: the folder of a run, which explains itself and is never half written."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ltpl
from ltpl.masks.files import whole_file
from ltpl.rounds.alone import alone
from ltpl.rounds.plan import changed
from ltpl.rounds.record import must_be_sound, must_stay_inside
from ltpl.tickets.files import is_whole, must_be_whole
from ltpl.tickets.result import FILE, Result, results, round_folder, seeds_and_rounds

FORMAT = "ltpl.run/1"
COLUMNS = (
    "seed",
    "round",
    "density",
    "weights_left",
    "val_acc",
    "test_acc",
    "early_stop_step",
    "seconds",
    "density_all",
    "start_acc",
    "pruned_acc",
    "epochs",
)


class RunTree:
    """A run, or a branch of one.

    Args:
        path: Its folder.
        record: Name of the file that makes the folder a run or a branch.
        root: The run that a branch belongs to; nothing is written outside of it.
    """

    def __init__(self, path: str | Path, record: str = "run.json", root: Path | None = None):
        self.path = Path(path)
        self.record = self.path / record
        self.root = root or self.path

    @classmethod
    def existing(cls, path: str | Path) -> RunTree:
        """Return the run at `path`.

        Raises:
            ValueError: If there is none.
        """
        tree = cls(path)
        if not tree.record.is_file():
            there = "it has no run.json" if tree.path.is_dir() else "there is no such folder"
            raise ValueError(f"{path} is not a run: {there}. Start one with `ltpl rounds --run`.")
        return tree

    def branch(self, name: str) -> RunTree:
        """Return a branch, there or not."""
        return RunTree(self.path / "branches" / name, "branch.json", self.path)

    def round(self, seed: int, level: int) -> Path:
        """Return the folder of a round."""
        return round_folder(self.path, seed, level)

    def result(self, seed: int, level: int) -> Result | None:
        """Return what a finished round measured; None if it is not finished."""
        file = self.round(seed, level) / FILE
        return Result.load(file) if file.is_file() else None

    def results(self) -> list[Result]:
        """Return all finished rounds."""
        return results(self.path)

    def read(self) -> dict[str, Any]:
        """Return what the record says.

        Raises:
            ValueError: If it was written by something else.
        """
        try:
            content: Any = json.loads(self.record.read_text())
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{self.record} was not written by ltpl: move it away, or the run.")
        try:
            must_be_sound(content)
        except ValueError as error:
            raise ValueError(f"{self.record} was not written by ltpl: {error}.") from None
        found: dict[str, Any] = content
        return found

    def begin(self, config: dict[str, Any], **more: Any) -> None:
        """Write the record, or check that what is there may go on with these options.

        Args:
            config: Every option, resolved.
            **more: What else the record says; lists of numbers only grow.

        Raises:
            ValueError: If the folder holds something else, or finished results depend on an option
                that changed.
        """
        if self.record.is_file() or self.root != self.path:
            must_stay_inside(self.root)
        if self.record.is_file():
            with self.at_work(more.get("seeds", ())):
                old = self.read()
            if differ := changed(old["config"], config):
                self._must_not_depend(differ)
            more = {k: _grown(old.get(k), v) for k, v in more.items()}
        elif self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; give the folder of a run.")
        elif self.path.is_dir() and any(p for p in self.path.iterdir() if p.name[0] != "."):
            raise ValueError(
                f"{self.path} is not empty and not a run: it has no {self.record.name}. Give a new "
                "folder."
            )
        text = json.dumps(config, sort_keys=True, default=str)
        content = {
            "format": FORMAT,
            **more,
            "digest": hashlib.sha256(text.encode()).hexdigest(),
            "versions": versions(),
            "config": config,
        }
        try:
            with whole_file(self.record) as beside:
                beside.write_text(json.dumps(content, indent=1, default=str))
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error.strerror}.") from None

    def _must_not_depend(self, differ: list[str]) -> None:
        """Let options change that nothing trained depends on; what was prepared with them goes.

        The dense network does not depend on how it will be pruned.
        """
        pruning = all(name.startswith("prune.") for name in differ)
        rounds = [p for _, level, p in seeds_and_rounds(self.path) if level or not pruning]
        if any((r / FILE).is_file() or any(r.glob("checkpoints/last.ckpt")) for r in rounds):
            raise ValueError(
                f"{self.path} was made with other options, and what was trained depends on them: "
                f"{'; '.join(differ)}. Give the old values, or another folder."
            )
        with self.at_work({seed for seed, _, _ in seeds_and_rounds(self.path)}):
            for path in rounds:
                shutil.rmtree(path)

    @contextlib.contextmanager
    def at_work(self, seeds: Iterable[int]) -> Iterator[None]:
        """Keep other processes away from replicates while the block runs.

        Raises:
            ValueError: If one is at work there already.
        """
        with contextlib.ExitStack() as held:
            for seed in seeds:
                held.enter_context(alone(self.path / f"seed_{seed}"))
            yield

    def damage(self, seed: int, level: int) -> str | None:
        """Return what is wrong with what a finished round has left; None if all is as it was."""
        return damage(self.round(seed, level))

    def put_aside(self, seed: int, level: int) -> None:
        """Make a round unfinished: its damaged files and its result get another name."""
        folder = self.round(seed, level)
        try:
            files = Result.load(folder / FILE).files
        except ValueError:
            files = {}
        damaged = [
            folder / name for name, digest in files.items() if not is_whole(folder / name, digest)
        ]
        for file in [*damaged, folder / FILE]:
            if file.exists():
                file.replace(file.with_name(f"{file.name}.damaged"))

    def write_summary(self) -> None:
        """Write `summary.csv` over all finished rounds."""
        with whole_file(self.path / "summary.csv") as beside, beside.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for r in self.results():
                shown = (r.seed, r.round, f"{r.density:.6g}", r.kept)
                trained = (r.early_stop_step, f"{r.seconds:.2f}", f"{r.density_all:.6g}")
                judged = map(_number, (r.val_acc, r.test_acc))
                more = map(_number, (r.start_acc, r.pruned_acc, r.epochs))
                writer.writerow((*shown, *judged, *trained, *more))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def damage(folder: Path) -> str | None:
    """Return what is wrong with what a finished round has left in its folder; None if nothing."""
    try:
        files = Result.load(folder / FILE).files if (folder / FILE).is_file() else {}
        for name, digest in files.items():
            must_be_whole(folder / name, digest)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return None


def _grown(old: Any, new: Any) -> Any:
    if isinstance(old, list) and isinstance(new, list):
        return sorted(set(old) | set(new))
    return max(old, new) if isinstance(old, int) and isinstance(new, int) else new


def versions() -> dict[str, str]:
    """Return the versions of what results depend on."""
    import importlib.metadata as metadata
    import platform

    found = {"ltpl": ltpl.__version__, "python": platform.python_version()}
    for package in ("torch", "pytorch-lightning", "lightning", "torchvision", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
