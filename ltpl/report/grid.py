"""`Grid`: a table as text, Markdown, LaTeX and HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ltpl.report.console import plain
from ltpl.report.looks import MINUS

_INTERVAL = re.compile(r"(.*) \(([+-][\d.]+) to ([+-][\d.]+)\)")
_TEX = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    MINUS: "$-$",
}
_FEW = 5  # columns that need not fill the page
_LAST_OF_LATIN = "\u017f"  # what a plain LaTeX has letters for


@dataclass(frozen=True)
class Grid:
    """Cells of a table, written out.

    Args:
        head: Titles of the columns.
        lines: Cells, as many a line as there are titles.
        left: How many columns hold words and not numbers: those at the left.
        starts: Numbers of the lines that begin a group.
    """

    head: list[str]
    lines: list[list[str]]
    left: int = 0
    starts: frozenset[int] = frozenset()


def text(grid: Grid) -> str:
    """Return the table with aligned columns, for a terminal."""
    lines = [grid.head, *grid.lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    written = ""
    for line in lines:
        cells = [
            cell.ljust(width) if number < grid.left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        written += "  ".join(cells).rstrip() + "\n"
    return plain(written)


def markdown(grid: Grid) -> str:
    """Return the table in Markdown."""
    sides = [":---" if number < grid.left else "---:" for number in range(len(grid.head))]
    cells = ([in_markdown(cell) for cell in line] for line in grid.lines)
    lines = [[in_markdown(title) for title in grid.head], sides, *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(grid: Grid) -> str:
    """Return the table as a LaTeX `tabular` that needs no package."""
    sides = "".join("l" if number < grid.left else "r" for number in range(len(grid.head)))
    rule = "\\hline\n"
    body = "".join(
        (rule if number in grid.starts and number else "") + _row(line)
        for number, line in enumerate(grid.lines)
    )
    return (
        "% No package is needed; with booktabs, \\toprule, \\midrule and \\bottomrule go where\n"
        "% \\hline stands.\n"
        f"\\begin{{tabular}}{{{sides}}}\n{rule}{_row(grid.head)}{rule}{body}{rule}\\end{{tabular}}\n"
    )


def html(grid: Grid, label: str) -> str:
    """Return the table in HTML, in a box that scrolls sideways where there is no room.

    Args:
        grid: The table.
        label: What a screen reader calls it.
    """
    sides = [' class="left"' if n < grid.left else "" for n in range(len(grid.head))]
    head = "".join(
        f'<th scope="col"{side}>{_titled(title)}</th>'
        for title, side in zip(grid.head, sides, strict=True)
    )
    kind = "scroll few" if len(grid.head) <= _FEW else "scroll"
    body = ""
    for number, line in enumerate(grid.lines):
        if number in grid.starts and number:
            body += "</tbody>\n<tbody>\n"
        cells = (
            f"<td{side}>{escape(cell) if side else _typeset(cell)}</td>"
            for cell, side in zip(line, sides, strict=True)
        )
        body += f"<tr>{''.join(cells)}</tr>\n"
    return (
        f'<div class="{kind}" tabindex="0" role="region" aria-label="{escape(label)}">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
    )


def _titled(title: str) -> str:
    return escape(title).replace(" - ", f" {MINUS} ").replace(" %", "\u00a0%")


def _typeset(cell: str) -> str:
    """Return numbers for HTML: an interval is small, and its mean bold if it decides."""
    if (found := _INTERVAL.fullmatch(cell)) is None:
        return escape(cell.replace("-", MINUS))
    mean, low, high = (escape(part.replace("-", MINUS)) for part in found.groups())
    if float(found[2]) * float(found[3]) > 0:
        mean = f"<strong>{mean}</strong>"
    return f"{mean} <small>{low} to {high}</small>"


def in_markdown(cell: str) -> str:
    """Return a cell in which Markdown sees no marks."""
    for mark in "\\|<>&*_`[]":
        cell = cell.replace(mark, f"\\{mark}")
    return plain(" ".join(cell.split()))


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(in_latex, cells)) + " \\\\\n"


def in_latex(cell: str) -> str:
    r"""Return text that LaTeX prints as it is.

    Example:
        >>> print(in_latex("50 % of a_b, -0.15 to +0.50"))
        50 \% of a\_b, $-$0.15 to +0.50
    """
    cell = re.sub(r"(?<![^\s(])-(?=\d|$|\s)", MINUS, plain(" ".join(cell.split())))
    return "".join(_TEX.get(c) or (c if _is_latin(c) else f"U+{ord(c):04X}") for c in cell)


def _is_latin(c: str) -> bool:
    return c.isascii() or (c.isalpha() and c <= _LAST_OF_LATIN)
