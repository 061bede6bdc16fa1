"""Lines side by side: a line of the table for each density, a column for each branch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from ltpl.report.grid import Grid
from ltpl.report.spread import per_cent
from ltpl.report.tables import Row

T = TypeVar("T")
_SAME = 0.99  # lines with ladders of their own hardly meet in the last weight


def levels(table: Sequence[Row], lines: Sequence[str] = ()) -> Grid:
    """Return scores with a line for each density and a column for each line of a run.

    Args:
        table: Rows of one run.
        lines: Titles of the lines to show, in this order; all if none is given.
    """
    columns = list(lines) or list(dict.fromkeys(row.line for row in table))
    found = by_density((row.density, row.line, row) for row in table if row.line in columns)
    cells: list[list[str]] = []
    for density, at in found:
        kept = next(iter(at.values())).kept
        scores = (row.score if (row := at.get(column)) else None for column in columns)
        shown = ("" if score is None else score.text(table[0].measure.decimals) for score in scores)
        cells.append([per_cent(density), f"{kept:,}", *shown])
    return Grid(["weights left, %", "weights left", *columns], cells)


def by_density(entries: Iterable[tuple[float, str, T]]) -> list[tuple[float, dict[str, T]]]:
    """Return what belongs in one line of a table, from dense to sparse.

    Args:
        entries: Density, column and cell; nearly the same densities share a line.

    Returns:
        The density of each line, and its cells by column.
    """
    lines: list[tuple[float, dict[str, T]]] = []
    for density, column, cell in sorted(entries, key=lambda entry: -entry[0]):
        if not lines or density < lines[-1][0] * _SAME or column in lines[-1][1]:
            lines.append((density, {}))
        lines[-1][1][column] = cell
    return lines
