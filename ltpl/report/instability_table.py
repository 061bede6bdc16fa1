"""The table of instability: a line for each branch and round that has a path."""

from __future__ import annotations

from ltpl.report.between import KINDS, RAW, between
from ltpl.report.grid import Grid
from ltpl.report.instability import measured
from ltpl.report.lines import Run
from ltpl.report.rewinding_point import rewinding_point
from ltpl.report.spread import Spread, per_cent


def instability_table(run: Run) -> Grid:
    """Return the instabilities in percentage points: mean (least to most) over seeds.

    With BatchNorm they are those with re-estimated statistics, and beside them those with raw ones.

    Args:
        run: The run.

    Raises:
        ValueError: If no branch has a path.
    """
    every = between([run])
    kind = measured(every)
    if kind is None:
        raise ValueError(f"{run.folder}: no branch has a path.csv.")
    raw = any(RAW + kind in branch.paths for branch in every)
    head = ["branch", "rewinding point", "weights left, %", "seeds"]
    head += [f"instability, {KINDS[kind]}", *["with raw statistics"] * raw]
    lines: list[list[str]] = []
    starts = set()
    for branch in every:
        starts.add(len(lines))
        for number in branch.rounds:
            spreads = [branch.instability(column, number) for column in (kind, RAW + kind)]
            if known := [spread for spread in spreads if spread]:
                cells = [
                    str(branch.line.branch),
                    str(rewinding_point(run, branch.line, number) or ""),
                ]
                cells += [per_cent(branch.density(number)), str(max(s.n for s in known))]
                lines.append([*cells, *map(told, spreads[: 1 + raw])])
    return Grid(head, lines, 2, frozenset(starts))


def told(spread: Spread | None) -> str:
    """Return mean (least to most); one seed has neither.

    Example:
        >>> told(Spread((1.0, 2.0, 3.0))), told(Spread((1.0,)))
        ('2.0 (1.0 to 3.0)', '1.0')
    """
    if spread is None:
        return ""
    ends = f" ({spread.low:.1f} to {spread.high:.1f})" if spread.n > 1 else ""
    return f"{spread.mean:.1f}{ends}"
