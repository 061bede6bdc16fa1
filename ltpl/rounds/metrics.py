"""`metrics.csv`: what a round logs, streamed, without doubled steps."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from lightning_utilities.core.rank_zero import rank_zero_only
from typing_extensions import override

from ltpl.callbacks.namespace import Logger
from ltpl.masks.files import whole_file


class MetricsFile(Logger):
    """Append each logged row to `metrics.csv`; columns are added as metrics appear.

    Args:
        path: The file.
        from_step: Rows of this step and later are dropped: they will be logged again.
    """

    def __init__(self, path: Path, from_step: int = 0):
        super().__init__()
        self.path = path
        self._columns = ["step", "epoch"]
        self._rows: list[dict[str, Any]] = []
        self._done = self._settled = 0
        self._header: list[str] | None = None
        if path.is_file() and from_step:
            self._keep_before(from_step)

    def _keep_before(self, step: int) -> None:
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            try:
                self._columns = list(reader.fieldnames or self._columns)
                # the last may be cut short
                whole = [row for row in reader if None not in row and None not in row.values()]
                self._rows = [r for r in whole if r["step"].isdecimal() and int(r["step"]) < step]
            except (csv.Error, KeyError, ValueError) as error:
                raise ValueError(f"{self.path} is no table of metrics: {error}.") from None
        for row in self._rows:
            row["step"] = int(row["step"])

    @property
    @override
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    @property
    @override
    def version(self) -> str:
        """Name of the round."""
        return self.path.parent.name

    @property
    @override
    def log_dir(self) -> str:
        """Folder of the round."""
        return str(self.path.parent)

    @override
    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing: the options stand in `config.yaml`."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; several calls for one step share it."""
        row: dict[str, Any] = {"step": step or 0, **metrics}
        if self._rows and self._rows[-1]["step"] == row["step"]:
            self._rows[-1].update(row)
        else:
            self._rows.append(row)
        self._columns += [name for name in row if name not in self._columns]

    @override
    @rank_zero_only
    def save(self) -> None:
        """Write what is new; the last row may still grow, so it is written over next time."""
        if not self._rows:
            return
        if self._header != self._columns:
            with whole_file(self.path) as beside, beside.open("w", newline="") as file:
                csv.DictWriter(file, self._columns).writeheader()
                self._append(file, self._rows)
            self._header = list(self._columns)
        else:
            with self.path.open("r+", newline="") as file:
                file.seek(self._settled)
                self._append(file, self._rows[self._done :])
                file.truncate()
        self._done = len(self._rows) - 1

    def _append(self, file: TextIO, rows: list[dict[str, Any]]) -> None:
        writer = csv.DictWriter(file, self._columns)
        writer.writerows(rows[:-1])
        self._settled = file.tell()
        writer.writerow(rows[-1])
