"""The page of a report: one HTML file with everything inside, for screens and for paper."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from ltpl.report.alarm import alarm
from ltpl.report.analysis import Answer
from ltpl.report.decisions import against, in_short, in_words
from ltpl.report.differences import STEP, Difference, side_by_side
from ltpl.report.grid import html
from ltpl.report.levels import levels
from ltpl.report.lines import Run
from ltpl.report.looks import MINUS
from ltpl.report.pictures import Picture, inline
from ltpl.report.summary import sentence
from ltpl.report.tables import Row, grid
from ltpl.report.verdicts import verdicts_section

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
    "pruned, as trained": "Validation with the mask on the trained weights that it was drawn from. "
    "Before retraining: with the mask on the weights that training starts from, which for a ticket "
    "are rewound ones.",
    "interval, decided": "The 95 % interval of a mean difference, by Student's t. Where it leaves "
    "out 0 the sign is decided, and the mean is bold. Of twenty comparisons without any effect, "
    "one is decided by chance.",
    "± and n": "Mean ± sample standard deviation over n seeds. Differences to dense are taken seed "
    "by seed.",
}
_NOTE = (
    '<p class="note">Mean ± sample standard deviation over seeds; of differences, the 95 % '
    "interval of the mean too.</p>"
)
_PAIRED = (
    "Differences are paired by seed: mean ± sample standard deviation, and the 95 % interval of "
    "the mean. Bold: the interval leaves out 0, so the sign is decided."
)


def page(
    runs: Sequence[Run],
    table: Sequence[Row],
    pictures: Sequence[Picture],
    found: Sequence[Difference] = (),
    said: Sequence[tuple[str, Sequence[Answer]]] = (),
) -> str:
    """Return the HTML page.

    Args:
        runs: What `read_runs` returned.
        table: What `rows` returned for them.
        pictures: The figures.
        found: What `differences` returned for them.
        said: Name of each run, and what its numbers say.
    """
    names = ", ".join(run.name for run in runs)
    style = files("ltpl.report").joinpath("page.css").read_text("utf-8")
    figures = [(picture.title, _figure(picture)) for picture in pictures]
    sections = [
        *figures[:1],
        ("What the numbers say", _said(said)),
        ("Expected and measured", _verdicts(runs)),
        *figures[1:],
        ("Differences", _differences(found, said)),
        ("Lines side by side", _levels(runs, table)),
        ("Alarms", _alarms(runs)),
        ("All rounds", html(grid(table), "All rounds") + _NOTE),
        ("How this was made", "\n".join(_made(run) for run in runs)),
        ("Words", _glossary()),
    ]
    shown = [(f"part-{n}", *part) for n, part in enumerate(sections) if part[1]]
    links = "".join(f'<a href="#{at}">{escape(title)}</a>\n' for at, title, _ in shown)
    parts = [
        f"<h1>Lottery tickets: {escape(names)}</h1>",
        *(_found(run, table, len(runs) > 1) for run in runs),
        f'<nav aria-label="Contents">\n{links}</nav>',
        *(
            f'<section id="{at}">\n<h2>{escape(title)}</h2>\n{content}\n</section>'
            for at, title, content in shown
        ),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Lottery tickets: {escape(names)}</title>\n<style>\n{style}</style>\n</head>\n"
        "<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _found(run: Run, table: Sequence[Row], several: bool) -> str:
    name = f"<strong>{escape(run.name)}.</strong> " if several else ""
    return f'<p class="found">{name}{_prose(sentence(run, table))}</p>'


def _verdicts(runs: Sequence[Run]) -> str:
    text = ""
    for run in runs:
        if found := verdicts_section(run, runs):
            text += (f"<h3>{escape(run.name)}</h3>\n" if len(runs) > 1 else "") + found
    return text


def _said(said: Sequence[tuple[str, Sequence[Answer]]]) -> str:
    text = ""
    for name, found in said:
        text += f"<h3>{escape(name)}</h3>\n" if len(said) > 1 and found else ""
        for answer in found:
            text += f"<h4>{escape(answer.question)}</h4>\n{_listed(answer.lines)}\n"
    return text


def _differences(found: Sequence[Difference], said: Sequence[tuple[str, Sequence[Answer]]]) -> str:
    """Return the differences of scores as tables, and in words what no answer has said."""
    scores = [d for d in found if d.measure is not STEP]
    told = {line for _, answers in said for answer in answers for line in answer.lines}
    text = ""
    names = list(dict.fromkeys(d.run for d in scores))
    for name in names:
        of_run = [d for d in scores if d.run == name]
        titles = dict.fromkeys(d.title for d in of_run)
        comparisons = [[d for d in of_run if d.title == title] for title in titles]
        new = [
            in_short(pairs, against(pairs[0].first, pairs[0].second))
            for pairs in comparisons
            if not told.issuperset(in_words(pairs))
        ]
        text += f"<h3>{escape(name)}</h3>\n" if len(names) > 1 else ""
        text += _listed(new) if new else ""
        text += html(side_by_side(of_run), f"Differences, {name}")
    return f'{text}<p class="note">{_PAIRED}</p>' if text else ""


def _levels(runs: Sequence[Run], table: Sequence[Row]) -> str:
    """Return the scores of lines side by side, for runs that have several."""
    text = ""
    for run in (run for run in runs if len(run.lines) > 1):
        text += f"<h3>{escape(run.name)}</h3>\n" if len(runs) > 1 else ""
        rows = [row for row in table if row.run == run.name]
        text += html(levels(rows), f"Lines side by side, {run.name}")
    name = escape(table[0].measure.name() + (", %" if table[0].measure.percent else ""))
    return (
        f'{text}<p class="note">{name.capitalize()}: mean ± standard deviation.</p>' if text else ""
    )


def _listed(lines: Sequence[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{_prose(line)}</li>\n" for line in lines) + "</ul>\n"


def _alarms(runs: Sequence[Run]) -> str:
    """Return what is dead in which round, as a list; nothing if everything lives."""
    found = [
        (f"{run.name}: " if len(runs) > 1 else "") + warning
        for run in runs
        for line in run.lines
        for result in line.results
        if (warning := alarm(result))
    ]
    items = "".join(f"<li>{_prose(warning)}</li>\n" for warning in found)
    return f'<ul class="alarm">\n{items}</ul>' if found else ""


def _figure(picture: Picture) -> str:
    label = escape(f"{picture.title}. {picture.caption}")
    wide = inline(picture.svg, picture.name, label)
    narrow = inline(picture.narrow, f"{picture.name}-narrow", label)
    return (
        f'<figure>\n<div class="wide">{wide}</div>\n<div class="narrow">{narrow}</div>\n'
        f"<figcaption>{_prose(picture.caption)}</figcaption>\n</figure>"
    )


def _prose(text: str) -> str:
    """Return text for HTML in which a number stays on the line of its unit, with a true minus."""
    text = re.sub(r"(?<![^\s(])-(?=\d|\s)", MINUS, text)
    text = re.sub(
        r"(?<=\d) (?=%|± \d|seed|pp\b)|(?<=%) (?=± \d)|(?<=±) (?=\d)|(?<=\d) (?=to [+\u2212])",
        "\u00a0",
        text,
    )
    return escape(re.sub(r"\bn = (?=\d)", "n\u00a0=\u00a0", text))


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
    if not record:
        counted += "; read from summary.csv, the rounds themselves were not at hand"
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
    return f"<dl>\n{entries}</dl>"
