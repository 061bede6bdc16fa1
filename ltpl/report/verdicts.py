"""Verdicts as text, Markdown, CSV, JSON, and as a section of the report page."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from ltpl.masks.errors import shown
from ltpl.masks.files import whole_file
from ltpl.report.check import AGREE, DIFFER, NOT_YET, Verdict, own_expectations, verdict
from ltpl.report.console import plain
from ltpl.report.grid import in_markdown
from ltpl.report.lines import Run
from ltpl.report.looks import MINUS
from ltpl.report.measures import MEASURES

FORMAT = "ltpl.check/1"
TITLES = ("run", "verdict", "no.", "claim", "measured", "expected", "source")
PROSE = ("claim", "measured", "source")  # their lines break


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return how many agree, differ and are not decided, in one line."""
    count = Counter(each.word for each in verdicts)
    differ = "differs" if count[DIFFER] == 1 else "differ"
    agree = "agrees" if count[AGREE] == 1 else "agree"
    return f"{count[AGREE]} {agree}, {count[DIFFER]} {differ}, {count[NOT_YET]} not yet"


def verdicts_as_text(verdicts: Sequence[Verdict]) -> str:
    """Return a table for a terminal, one line a claim, and the summary."""
    lines = _cells(verdicts)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ""
    for line in lines:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        text += "  ".join(padded).rstrip() + "\n"
    return plain(f"{text}\n{summary(verdicts)}\n")


def verdicts_as_markdown(verdicts: Sequence[Verdict]) -> str:
    """Return the table in Markdown, and the summary."""
    head, *lines = [[in_markdown(cell) for cell in line] for line in _cells(verdicts)]
    table = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in table) + f"\n{summary(verdicts)}\n"


def verdicts_as_csv(verdicts: Sequence[Verdict]) -> str:
    """Return one row a claim with plain numbers."""
    rows = [_fields(each) for each in verdicts]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return plain(file.getvalue())


def verdicts_as_json(verdicts: Sequence[Verdict]) -> str:
    """Return everything that is known of each verdict; what is not a number is null."""
    found = []
    for each in verdicts:
        values = each.measured.values if each.measured else ()
        fields = {**_fields(each), "values": list(values)}
        found.append({name: _finite(value) for name, value in fields.items()})
    return json.dumps({"format": FORMAT, "verdicts": found}, indent=1) + "\n"


WRITERS: dict[str, Callable[[Sequence[Verdict]], str]] = {
    ".md": verdicts_as_markdown,
    ".csv": verdicts_as_csv,
    ".json": verdicts_as_json,
}


def write_verdicts(verdicts: Sequence[Verdict], out: str | Path) -> None:
    """Write verdicts as Markdown, CSV or JSON, by the ending of the file.

    Raises:
        ValueError: If it ends otherwise.
    """
    if (ending := Path(out).suffix) not in WRITERS:
        raise ValueError(f"out={shown(str(out))}: a file that ends in {', '.join(WRITERS)}.")
    with whole_file(out) as beside:
        beside.write_text(WRITERS[ending](verdicts), "utf-8")


def verdicts_section(run: Run, runs: Sequence[Run] = ()) -> str:
    """Return what the report page says of what a run expects, as HTML.

    Args:
        run: The run; without expectations nothing is said.
        runs: Other runs that they may name.
    """
    try:
        verdicts = [verdict(each, run, runs) for each in own_expectations(run)]
    except ValueError as error:
        return f'<p class="note">{escape(str(error))}</p>'
    if not verdicts:
        return ""
    head, *lines = _cells(verdicts)
    titles = "".join(f'<th scope="col" class="left">{escape(cell)}</th>' for cell in head)
    kinds = ["left prose" if title in PROSE else "left" for title in head]
    body = ""
    for line in lines:
        cells = zip(kinds, map(_typeset, line), strict=True)
        row = "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in cells)
        body += f"<tr>{row}</tr>\n"
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Expected and measured">\n'
        f"<table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
        f'<p class="note">{summary(verdicts)}. Mean ± sample standard deviation, and the 95 % '
        "interval of the mean (Student's t), over n seeds; differences and ratios are taken seed "
        "by seed.</p>"
    )


def _typeset(cell: str) -> str:
    return escape(re.sub(r"(?<![^ (])-(?=\d)", MINUS, cell))


def _cells(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Return titles and cells, without the columns that say nothing."""
    several = len({each.run for each in verdicts}) > 1
    lines = []
    for each in verdicts:
        said = each.expected
        number = "" if said.number is None else str(said.number)
        words = (said.claim, measured(each), expected(each), said.source or "")
        cells = [each.run if several else "", each.word, number, *words]
        lines.append([" ".join(cell.split()) for cell in cells])
    said_in = [any(column) for column in zip(*lines, strict=True)]
    return [
        [cell for cell, says in zip(line, said_in, strict=True) if says]
        for line in [[*TITLES], *lines]
    ]


def measured(each: Verdict) -> str:
    """Return what was measured: `+0.18 ± 0.20 pp (-0.15 to +0.50, n = 4)`, and what is missing."""
    if each.measured is None:
        return each.reason
    unit, sign, places = _style(each)
    ends = [f"n = {each.measured.n}"]
    if each.interval is not None:
        low, high = (round(end, places) + 0.0 for end in each.interval)
        ends.insert(0, f"{low:{sign}.{places}f} to {high:{sign}.{places}f}")
    shown = f"{each.measured.text(places, sign)}{unit} ({', '.join(ends)})"
    return f"{shown}; {each.reason}" if each.reason else shown


def expected(each: Verdict) -> str:
    """Return what was expected: `+0.25 ± 0.1 pp`, `at least +0 pp`, `1 to 2`."""
    unit, sign, _ = _style(each)
    said = each.expected

    def written(number: float | None) -> str:
        return f"{number:{sign}.10g}" if number else "0"

    if said.value is not None:
        return f"{written(said.value)} ± {said.tolerance:.10g}{unit}"
    if said.at_least is not None and said.at_most is not None:
        return f"{written(said.at_least)} to {written(said.at_most)}{unit}"
    if said.at_least is not None:
        return f"at least {written(said.at_least)}{unit}"
    return f"at most {written(said.at_most)}{unit}"


def _style(each: Verdict) -> tuple[str, str, int]:
    """Return the unit, the sign and the digits after the point."""
    measure = MEASURES[each.expected.measure]
    if each.expected.over is not None:
        return "", "", 2
    if each.expected.minus is not None:
        return " pp" if measure.unit else "", "+", measure.decimals
    return f" {measure.unit}" if measure.unit else "", "", measure.decimals


def _fields(each: Verdict) -> dict[str, Any]:
    spread, ends = each.measured, each.interval or (None, None)
    numbers = (spread.mean, spread.std, spread.n) if spread else (None, None, 0)
    names = ("mean", "std", "n", "interval_low", "interval_high")
    found = {"run": each.run, "verdict": each.word, "reason": each.reason}
    return found | dict(zip(names, (*numbers, *ends), strict=True)) | asdict(each.expected)


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
