"""The page of a report: one HTML file with everything inside, for screens and for paper."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import Any

from ltpl.report.alarm import alarm
from ltpl.report.lines import Run
from ltpl.report.looks import MINUS
from ltpl.report.pictures import Picture, inline
from ltpl.report.summary import sentence
from ltpl.report.tables import Column, Row, columns

GLOSSARY = {
    "ticket": "A mask together with the weights that training starts from: a sparse network before "
    "it is trained.",
    "density": "Share of weights that are left; given of the prunable weights and of all "
    "parameters, biases and normalisation included.",
    "round": "Train, prune, rewind. Round 0 trains the dense network; round k has been pruned k "
    "times.",
    "rewind": "Put the weights that are left back to what they were at an early step, often "
    "initialisation, and train again.",
    "early stop": "The step at which the validation loss was lowest, found afterwards. Where it "
    "comes earlier, the network learned faster.",
    "reinit": "A control: the same mask with freshly drawn weights. If the ticket does better, its "
    "initial weights matter and not only its structure.",
    "winning, matching": "A ticket that does as well as the dense network: winning if it was "
    "rewound to initialisation, matching if to a later step.",
    "± and n": "Mean ± sample standard deviation over n seeds. Differences to dense are taken seed "
    "by seed.",
}


def page(runs: Sequence[Run], table: Sequence[Row], pictures: Sequence[Picture]) -> str:
    """Return the HTML page.

    Args:
        runs: What `read_runs` returned.
        table: What `rows` returned for them.
        pictures: The figures.
    """
    names = ", ".join(run.name for run in runs)
    style = files("ltpl.report").joinpath("page.css").read_text("utf-8")
    sections = [
        f"<h1>Lottery tickets: {escape(names)}</h1>",
        *(_found(run, table, len(runs) > 1) for run in runs),
        *(_figure(picture) for picture in pictures),
        *_alarms(runs),
        _table(table),
        "<section>\n<h2>How this was made</h2>",
        *(_made(run) for run in runs),
        "</section>",
        _glossary(),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Lottery tickets: {escape(names)}</title>\n<style>\n{style}</style>\n</head>\n"
        "<body>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def _found(run: Run, table: Sequence[Row], several: bool) -> str:
    name = f"<strong>{escape(run.name)}.</strong> " if several else ""
    return f'<p class="found">{name}{_prose(sentence(run, table))}</p>'


def _alarms(runs: Sequence[Run]) -> list[str]:
    """Return what is dead in which round, as a list; nothing if everything lives."""
    found = [
        (f"{run.name}: " if len(runs) > 1 else "") + warning
        for run in runs
        for line in run.lines
        for result in line.results
        if (warning := alarm(result))
    ]
    items = "".join(f"<li>{_prose(warning)}</li>\n" for warning in found)
    return [f'<ul class="alarm">\n{items}</ul>'] if found else []


def _figure(picture: Picture) -> str:
    label = escape(f"{picture.title}. {picture.caption}")
    wide = inline(picture.svg, picture.name, label)
    narrow = inline(picture.narrow, f"{picture.name}-narrow", label)
    return (
        f"<section>\n<h2>{escape(picture.title)}</h2>\n<figure>\n"
        f'<div class="wide">{wide}</div>\n<div class="narrow">{narrow}</div>\n'
        f"<figcaption>{_prose(picture.caption)}</figcaption>\n</figure>\n</section>"
    )


def _prose(text: str) -> str:
    """Return text for HTML in which a number stays on the line of its unit."""
    text = re.sub(r"(?<=\d) (?=%|± \d|seed)|(?<=%) (?=± \d)|(?<=±) (?=\d)", "\u00a0", text)
    return escape(re.sub(r"\bn = (?=\d)", "n\u00a0=\u00a0", text))


def _table(table: Sequence[Row]) -> str:
    shown = columns(table)
    sides = [' class="left"' if column.left else "" for column in shown]
    head = "".join(
        f'<th scope="col"{side}>{escape(column.title)}</th>'
        for column, side in zip(shown, sides, strict=True)
    )
    body = ""
    for _, lines in groupby(table, key=lambda row: (row.run, row.branch)):
        body += "<tbody>\n"
        for row in lines:
            cells = "".join(
                f"<td{side}>{escape(_typeset(column, row))}</td>"
                for column, side in zip(shown, sides, strict=True)
            )
            body += f"<tr>{cells}</tr>\n"
        body += "</tbody>\n"
    return (
        "<section>\n<h2>All rounds</h2>\n"
        '<div class="scroll" tabindex="0" role="region" aria-label="All rounds">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n{body}</table>\n</div>\n"
        '<p class="note">Mean ± sample standard deviation over seeds.</p>\n</section>'
    )


def _typeset(column: Column, row: Row) -> str:
    cell = column.cell(row)
    return cell if column.left else cell.replace("-", MINUS)


def _made(run: Run) -> str:
    record = run.record
    facts = []
    if command := record.get("command"):
        text = command if isinstance(command, str) else shlex.join(map(str, command))
        facts.append(f"<pre>{escape(text)}</pre>")
    seeds = {result.seed for line in run.lines for result in line.results}
    rounds = sum(len(line.results) for line in run.lines)
    counted = f"{rounds} finished rounds, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    versions = record.get("versions")
    if isinstance(versions, Mapping):
        counted += "; " + ", ".join(f"{name} {version}" for name, version in versions.items())
    facts.append(f"<p>{escape(counted)}.</p>")
    rest = {
        key: value for key, value in record.items() if key not in ("command", "versions", "config")
    }
    for title, content in (("Configuration", record.get("config")), ("Record", rest)):
        if content:
            facts.append(
                f"<details><summary>{title}</summary>\n<pre>{escape(_pretty(content))}</pre></details>"
            )
    return f"<h3>{escape(run.name)}</h3>\n" + "\n".join(facts)


def _pretty(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def _glossary() -> str:
    entries = "".join(
        f"<dt>{escape(word)}</dt>\n<dd>{escape(meaning)}</dd>\n"
        for word, meaning in GLOSSARY.items()
    )
    return f"<section>\n<h2>Words</h2>\n<dl>\n{entries}</dl>\n</section>"
