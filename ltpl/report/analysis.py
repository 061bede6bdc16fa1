"""What the numbers say: the questions of the papers, answered as far as the results decide them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ltpl.report.console import plain
from ltpl.report.decisions import against, in_short, in_words, surely, tally
from ltpl.report.differences import STEP, Difference, between, early_stop, with_dense
from ltpl.report.drawing import when_to_prune
from ltpl.report.lines import Line, Run
from ltpl.report.pairs import density, rival
from ltpl.report.roles import CONTROLS, is_compared, is_one_shot, is_ticket, policy
from ltpl.report.score import Score
from ltpl.report.spread import Spread, per_cent
from ltpl.tickets.result import Result

_OTHER_WAYS = ("finetune", "lr_rewind", "continue")


@dataclass(frozen=True)
class Answer:
    """A question, and what the numbers say.

    Args:
        question: As the papers ask it.
        lines: Sentences.
    """

    question: str
    lines: list[str]


def answers(run: Run, measure: Score) -> list[Answer]:
    """Return the questions that a run has numbers for, with their answers.

    Args:
        run: A run.
        measure: What is compared.
    """
    asked: dict[str, Callable[[Run, Score], list[str]]] = {
        "Is retraining needed?": retraining,
        "How much does pruning gain?": gain,
        "Is there a lottery ticket?": lottery_ticket,
        "Does the ticket differ from fine-tuning?": fine_tuning,
        "Iterative or one-shot?": iterative_or_one_shot,
        "When to prune?": when_to_prune,
    }
    found = {question: answer(run, measure) for question, answer in asked.items()}
    return [Answer(question, lines) for question, lines in found.items() if lines]


def as_markdown(told_of: Sequence[tuple[str, Sequence[Answer]]]) -> str:
    """Return answers in Markdown.

    Args:
        told_of: Name of each run, and what its numbers say.
    """
    text = "# What the numbers say\n"
    for name, found in told_of:
        text += f"\n## {_marked(name)}\n" if len(told_of) > 1 else ""
        for answer in found:
            lines = "".join(f"- {_marked(line)}\n" for line in answer.lines)
            text += f"\n### {answer.question}\n\n{lines}"
    return plain(text)


def retraining(run: Run, measure: Score) -> list[str]:
    """Return what retraining gains over the mask on trained weights, and on rewound ones."""
    validated = replace(measure, stage="validation") if measure.stage == "test" else measure
    lines = []
    for line in _lines(run):
        pruned = _gains(run, line, validated, validated.pruned)
        start = _gains(run, line, validated, validated.start)
        name = f"{_capital(_named(line))}, retrained minus"
        if pruned:
            lines.append(in_short(pruned, f"{name} the mask on the trained weights"))
        elif start:
            lines.append(f"{name} the mask on the trained weights: not measured.")
        if start and start != pruned:  # where training goes on, both are the same network
            lines.append(in_short(start, f"{name} before retraining"))
    return lines


def _lines(run: Run) -> list[Line]:
    """Return the ways to prune the trained network; of those that prune early see `drawing`."""
    return [line for line in run.lines if is_compared(line) and line.option("drawn_at") is None]


def _gains(
    run: Run, line: Line, measure: Score, before: Callable[[Result], float | None]
) -> list[Difference]:
    found = []
    for number in (n for n in line.rounds if n):
        level = line.level(number)
        pairs = [(measure.validation(r), before(r)) for r in level]
        if spread := Spread.of(a - b for a, b in pairs if a is not None and b is not None):
            where = (number, density(level), measure)
            found.append(Difference(run.name, "retrained", "before", *where, spread))
    return found


def gain(run: Run, measure: Score) -> list[str]:
    """Return by how much the best level of each line differs from the dense network."""
    lines = []
    for line in _lines(run):
        found = [d for d in with_dense(run, line, measure) if math.isfinite(d.loss)]
        if found:
            best = min(found, key=lambda d: d.loss)
            where = f"{per_cent(best.density)} % of the weights"
            first = "At the best level, " if len(found) > 1 else "At "
            gained = surely(best, len(found))
            lines.append(f"{first}{where}, {_named(line)} minus dense is {gained}.")
    return lines


def lottery_ticket(run: Run, measure: Score) -> list[str]:
    """Return how rewound tickets compare with dense and with the controls of the papers."""
    lines = []
    for line in filter(is_ticket, run.lines):
        lines += in_words(list(with_dense(run, line, measure)))
        lines += _speed(list(with_dense(run, line, STEP, early_stop)))
        controls = [b for b in run.branches if b.does in CONTROLS and rival(run, b) is line]
        for control in sorted(controls, key=lambda b: CONTROLS.index(str(b.does))):
            lines += in_words(list(between(run, line, control, measure)))
            if control.does == "reinit":
                lines += _speed(list(between(run, line, control, STEP, early_stop)))
    if lines and not any(line.does == "reinit" for line in run.branches):
        lines.append("Against the same masks over new initial weights (reinit): not measured.")
    return lines


def _speed(found: Sequence[Difference]) -> list[str]:
    if not found:
        return []
    return [f"{against(found[0].first, found[0].second)}, early stop: {tally(found)}."]


def fine_tuning(run: Run, measure: Score) -> list[str]:
    """Return how tickets compare with other ways to go on under the same masks."""
    others = [line for line in _lines(run) if policy(line) in _OTHER_WAYS]
    tickets = list(filter(is_ticket, run.lines))
    pairs = [(t, o) for t in tickets for o in others if is_one_shot(t) == is_one_shot(o)]
    return _compared(run, pairs, measure)


def iterative_or_one_shot(run: Run, measure: Score) -> list[str]:
    """Return how pruning in rounds compares with pruning at once."""
    at_once = [line for line in _lines(run) if is_one_shot(line)]
    pairs = [
        (line, one)
        for line in _lines(run)
        for one in at_once
        if not is_one_shot(line) and policy(line) == policy(one)
    ]
    return _compared(run, pairs, measure)


def _compared(run: Run, pairs: Sequence[tuple[Line, Line]], measure: Score) -> list[str]:
    found = [list(between(run, first, second, measure)) for first, second in pairs]
    return [line for comparison in found for line in in_words(comparison)]


def _named(line: Line) -> str:
    return "the ticket" if line.branch is None else line.title


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("the ") else text


def _marked(text: str) -> str:
    for mark in "\\<>*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
