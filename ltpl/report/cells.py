"""CSV files of a round, read as far as they are whole."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path


def whole_rows(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    """Return the header of a CSV file and the rows that have as many cells.

    A line that is cut short, as in a run that was killed, is left out, and so is all that comes
    after what cannot be read.

    Args:
        path: The file; one that is missing is empty.
    """
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError:
        text = ""
    whole = text[: text.rfind("\n") + 1].replace("\0", "")
    lines = _readable(csv.reader(io.StringIO(whole)))
    header = next(lines, [])
    return header, (cells for cells in lines if len(cells) == len(header))


def as_number(cell: str) -> float | None:
    """Return the finite number that a cell holds; None if it holds none.

    Example:
        >>> as_number("0.25"), as_number(""), as_number("nan")
        (0.25, None, None)
    """
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _readable(lines: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield rows until one cannot be read."""
    with contextlib.suppress(csv.Error):
        yield from lines
