"""`summary.csv`: the rows of finished rounds, where the rounds themselves are not at hand."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ltpl.tickets.fields import LARGEST, must_be_sound
from ltpl.tickets.result import Result

FILE = "summary.csv"
NEEDED = ("seed", "round", "density", "weights_left")
_WHOLE = ("seed", "round", "weights_left", "early_stop_step")
_NUMBERS = ("density", "density_all", "val_acc", "test_acc", "start_acc", "pruned_acc")
_KNOWN = (*_WHOLE, *_NUMBERS, "seconds", "epochs")
_APART = 1e-4  # relative: densities have six digits
_SPARSEST = 1e-15  # a density below is none

Numbers = dict[str, Any]


def read_summary(path: str | Path, branch: str | None = None) -> list[Result]:
    """Read the rows of a run's main line or of a branch, by seed and round.

    A row knows less than the `result.json` of its round: no layers, no losses. How many weights
    there are follows from `weights_left` and `density`; how many parameters from `density_all`, and
    it is 0 where that column is missing. So are other columns allowed to be, except for `NEEDED`.

    Args:
        path: The file.
        branch: Name of the branch; None for the main line.

    Raises:
        ValueError: If a needed column is missing, or a row is broken, stands twice or does not fit
            the others.
    """
    rows = _rows(Path(path))
    densest = max((row for _, row in rows), key=lambda row: float(row["density"]), default={})
    if densest.get("density", 0.0) < _SPARSEST:
        raise ValueError(f"{path} has no row that says how many weights there are.")
    total = round(densest["weights_left"] / densest["density"])
    parameters = _parameters(total, [row for _, row in rows])
    found: dict[tuple[int, int], Result] = {}
    for number, row in rows:
        result = _result(row, total, parameters, branch, f"{path}, line {number}")
        if found.setdefault((result.seed, result.round), result) is not result:
            twice = f"seed {result.seed} round {result.round}"
            raise ValueError(f"{path}, line {number}: {twice} stands there twice.")
    return [found[key] for key in sorted(found)]


def _rows(path: Path) -> list[tuple[int, Numbers]]:
    """Return each row and the number of its line."""
    try:
        text = path.read_text("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        head = reader.fieldnames or []
        if missing := [name for name in NEEDED if name not in head]:
            raise ValueError(f"{path} has no column {', '.join(missing)}.")
        return [
            (reader.line_num, _numbers(row, f"{path}, line {reader.line_num}")) for row in reader
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file: {error}.") from None


def _numbers(row: dict[Any, Any], where: str) -> Numbers:
    if None in row or None in row.values():
        raise ValueError(f"{where}: it has more or fewer cells than the head has names.")
    found = {}
    for name in _KNOWN:
        text = row.get(name, "").strip()
        if not text and name not in NEEDED:
            continue
        try:
            found[name] = int(text) if name in _WHOLE else float(text)
            if name in _WHOLE and not 0 <= found[name] <= LARGEST:
                raise ValueError
        except ValueError:
            kind = "a whole number" if name in _WHOLE else "a number"
            raise ValueError(f"{where}: {name} is {text[:60]!r}; {kind} is wanted.") from None
    if not 0 <= found["density"] <= 1:
        raise ValueError(f"{where}: density is {found['density']:g}; a share of 1 is wanted.")
    return found


def _parameters(total: int, rows: list[Numbers]) -> int:
    """Return how many parameters there are, by the sparsest row; 0 if no row tells."""
    pruned = [row for row in rows if row.get("density_all", 1.0) < 1]
    if not pruned:
        return 0
    row = min(pruned, key=lambda row: float(row["density_all"]))
    lost = int(total - row["weights_left"])
    return max(total, round(lost / (1 - float(row["density_all"]))))


def _result(row: Numbers, total: int, parameters: int, branch: str | None, where: str) -> Result:
    kept = row.pop("weights_left")
    density = row.pop("density")
    if abs(kept - density * total) > 1 + _APART * total * density:
        raise ValueError(
            f"{where}: {kept} weights are not {density:g} of {total}, as other rows have it."
        )
    row.pop("density_all", None)
    fields = {**row, "kept": min(kept, total), "total": total, "layers": [], "branch": branch}
    try:
        must_be_sound({**fields, "parameters": parameters or total})
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from None
    return Result(parameters=parameters, **fields)
