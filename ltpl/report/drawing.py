"""When to prune: retrained accuracy by the epoch at which the mask was drawn."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from itertools import groupby

from ltpl.masks.mask import Mask
from ltpl.report.decisions import told
from ltpl.report.differences import Difference
from ltpl.report.lines import Line, Run
from ltpl.report.pairs import density, paired
from ltpl.report.roles import is_compared, is_one_shot, policy
from ltpl.report.score import Score
from ltpl.report.spread import Spread, per_cent
from ltpl.tickets.step import Step

EARLY_BIRD = "early_bird"
_NOT_A_TICKET = (ValueError, KeyError, TypeError, OSError, OverflowError, RecursionError)
_END = "the end of training"


def when_to_prune(run: Run, measure: Score) -> list[str]:
    """Return which epoch was the best to draw the mask at, for each level."""
    lines = [line for line in run.lines if is_compared(line) and is_one_shot(line)]
    ways = groupby(sorted(lines, key=_way), key=_way)
    said = []
    for _, group in ways:
        drawn = sorted(group, key=_moment)
        if sum(line.option("drawn_at") is not None for line in drawn) > 1:
            for number in sorted({number for line in drawn for number in line.rounds}):
                said += _level(run, [x for x in drawn if number in x.rounds], number, measure)
    return [*said, *_found(run)] if said else []


def _level(run: Run, lines: Sequence[Line], number: int, measure: Score) -> list[str]:
    known = [(line, Spread.of(measure.of(r) for r in line.level(number))) for line in lines]
    scores = [(line, score) for line, score in known if score]
    fixed = [(x, score) for x, score in scores if x.option("drawn_at") != EARLY_BIRD]
    if len(fixed) < 2:
        return []
    shown = [
        f"{_label(line)} {score.text(measure.decimals, unit=measure.unit)} (n = {score.n})"
        for line, score in scores
    ]
    sign = -1 if measure.lower_is_better else 1
    best, _ = max(fixed, key=lambda each: sign * each[1].mean)
    share = per_cent(density(best.level(number)))
    said = [
        f"Round {number}, {share} % of the weights, by when the mask was drawn: "
        f"{', '.join(shown)}; in the mean {_label(best)} is best."
    ]
    birds = [line for line, _ in scores if line.option("drawn_at") == EARLY_BIRD]
    for one, other in [(fixed[-1][0], fixed[0][0]), *((line, best) for line in birds)]:
        if spread := paired(one.level(number), other.level(number), measure.of):
            first, second = f"the mask of {_label(one)}", f"that of {_label(other)}"
            left = density(one.level(number))
            found = Difference(run.name, first, second, number, left, measure, spread)
            said.append(f"{told(found)}.")
    return said


def _found(run: Run) -> list[str]:
    """Return after how many epochs the early-bird rule found its tickets."""
    epochs: dict[str, list[str]] = {}
    for seed in sorted({r.seed for r in run.main.level(0)}):
        for folder in sorted(run.folder.glob(f"seed_{seed}/round_00/{EARLY_BIRD}_*")):
            with contextlib.suppress(*_NOT_A_TICKET):
                made_by = json.loads(Mask.load(folder / "mask.safetensors").metadata["made_by"])
                amount, epoch = float(made_by["amount"]), int(made_by["epoch"])
                epochs.setdefault(f"{100 * amount:g}", []).append(f"{epoch} (seed {seed})")
    return [
        f"For {amount} % pruned the early-bird rule found its mask after {', '.join(found)} epochs."
        for amount, found in epochs.items()
    ]


def _way(line: Line) -> tuple[str, str]:
    """Return how the line is retrained, and what prunes it: weights or channels."""
    config = line.record.get("config")
    pruner = config.get("prune") if isinstance(config, Mapping) else None
    kind = pruner.get("class_path") if isinstance(pruner, Mapping) else None
    return policy(line) or "", str(kind or "")


def _moment(line: Line) -> tuple[int, int, int]:
    """Return where the line belongs: by epoch, then what the rule found, then the end."""
    drawn = line.option("drawn_at")
    if drawn is None:
        return (1, 0, 0)
    try:
        step = Step.parse(str(drawn))
    except ValueError:
        return (2, 0, 0)
    return (0, step.epoch or 0, step.iteration)


def _label(line: Line) -> str:
    drawn = line.option("drawn_at")
    return _END if drawn is None else str(drawn)
