"""The rewinding point: the step that the two trainings of a `reorder` branch part from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from ltpl.report.curves import LARGEST
from ltpl.report.lines import Line, Run
from ltpl.report.roles import WAYS
from ltpl.tickets.step import Step


def rewinding_point(run: Run, line: Line, number: int) -> Step | None:
    """Return when the trainings of a round part; None if that is not known or it was not rewound.

    The dense network parts at the rewinding point of the branch, a ticket at its own, which may be
    that of the branch that it comes from.

    Args:
        run: The run.
        line: A branch of kind `reorder`.
        number: The round.
    """
    source = tickets_of(run, line) if number else line
    if line.does != "reorder" or (number and _policy(source) not in (None, "rewind")):
        return None
    made = {str(r.made_by.get("rewind")) for r in line.level(number) if r.made_by.get("rewind")}
    if made:
        return _step(made.pop()) if len(made) == 1 else None
    options = _options(source) or _options(line)  # those of the run may not be at hand
    at, epoch = options.get("at"), options.get("epoch")
    return _step(f"{epoch}ep" if at is None else str(at))


def tickets_of(run: Run, line: Line) -> Line:
    """Return the line whose tickets a branch trains again.

    Args:
        run: The run.
        line: Its branch.
    """
    of = line.option("of")
    if of is None:
        return run.main
    # one that is not at hand is known by its name, and by the options of those who train it again
    unknown = Line(line.folder, str(of), None, [], line.record)
    return next((other for other in run.branches if other.branch == of), unknown)


def steps_until(run: Run, point: Step) -> int | None:
    """Return how many steps are trained until then; None if the length of an epoch is not known.

    Args:
        run: The run; its dense training tells how long an epoch is.
        point: The moment.
    """
    epochs, steps = point.epoch or 0, float(point.iteration)
    if epochs:
        dense = [(r.steps, r.epochs) for r in run.main.level(0)]
        each = [trained / length for trained, length in dense if trained and length and length > 0]
        steps += epochs * median(each) if each else math.nan
    return round(steps) if steps <= LARGEST else None


def _policy(line: Line) -> str | None:
    if line.policy or line.does in WAYS:
        return line.policy or line.does
    return _options(line).get("policy")


def _options(line: Line) -> Mapping[str, Any]:
    """Return the options of the rewinding that a line was run with, as far as they are recorded."""
    config = line.record.get("config")
    rewind = config.get("rewind") if isinstance(config, Mapping) else None
    options = rewind.get("init_args") if isinstance(rewind, Mapping) else None
    return options if isinstance(options, Mapping) else {}


def _step(text: str) -> Step | None:
    try:
        step = Step.parse(text)
    except ValueError:
        return None
    return step if max(step.epoch or 0, step.iteration) <= LARGEST else None
