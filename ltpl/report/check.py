"""`check`: what was measured against what was expected, decided seed by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltpl.report.commands import lacking
from ltpl.report.expect import MAIN, Expectation, Place, expectations, expected_in
from ltpl.report.interval import interval
from ltpl.report.lines import Line, Run, read_runs
from ltpl.report.measures import MEASURES
from ltpl.report.spread import Spread

AGREE, DIFFER, NOT_YET = "agree", "differ", "not yet"
_ROUNDING = 1e-9  # what adding floats in another order may change


@dataclass(frozen=True)
class Verdict:
    """What was measured of one claim, and whether it agrees.

    Args:
        run: Name of the run.
        expected: The claim.
        word: `agree`, `differ` or `not yet`.
        reason: Why it is not decided; empty if it is.
        measured: The measure, its difference or its ratio, once for each seed that has it.
    """

    run: str
    expected: Expectation
    word: str
    reason: str
    measured: Spread | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean."""
        return None if self.measured is None else interval(self.measured.values)


class Missing(Exception):
    """Something that an expectation speaks of is not measured yet; the message says what."""


def check(
    dirs: str | Path | Sequence[str | Path],
    expect: str | Path | Sequence[Expectation | Mapping[str, Any]] | None = None,
) -> list[Verdict]:
    """Compare runs with what they, or a config, expect of them.

    Args:
        dirs: Run folders.
        expect: What is expected: the entries of an `expect` block, or a config that has one. A run
            that one of them names by `RUN:` is there for that alone. If not given, what each run's
            own config expects.

    Raises:
        ValueError: If a folder is no run, an expectation is wrong, or there is none.
    """
    folders = [dirs] if isinstance(dirs, str | Path) else list(dirs)
    runs = read_runs(folders)
    if expect is None:
        asked = [(run, own_expectations(run)) for run in runs]
    else:
        given = expected_in(expect) if isinstance(expect, str | Path) else expectations(expect)
        others = {place.run for each in given for place in _places(each)}
        asked = [(run, given) for run in runs if _name(run) not in others] or [(runs[0], given)]
    found = [verdict(each, run, runs) for run, wanted in asked for each in wanted]
    if not found:
        raise ValueError(
            f"{', '.join(map(str, folders))}: nothing is expected. Give a config with an `expect` "
            "block, `--config FILE`, or put one into the config of the run before `ltpl rounds`."
        )
    return found


def own_expectations(run: Run) -> list[Expectation]:
    """Return what a run's own config expects.

    Raises:
        ValueError: If that is wrong.
    """
    config = run.record.get("config")
    try:
        return expectations(config.get("expect") if isinstance(config, Mapping) else None)
    except ValueError as error:
        raise ValueError(f"{run.folder}: {error}") from None


def verdict(expected: Expectation, run: Run, runs: Sequence[Run] = ()) -> Verdict:
    """Return the verdict on one claim.

    Args:
        expected: The claim.
        run: The run that it speaks of.
        runs: Other runs that it may name; those that lie beside the run need not be given.
    """
    try:
        measured = Spread.of(_values(expected, run, runs).values())
    except Missing as missing:
        return Verdict(run.name, expected, NOT_YET, str(missing), None)
    word, reason = decide(expected, measured.values if measured else ())
    return Verdict(run.name, expected, word, reason, measured)


def decide(expected: Expectation, values: Sequence[float]) -> tuple[str, str]:
    """Return `agree`, `differ` or `not yet`, and why it is not decided.

    A value with a tolerance agrees if the mean lies within it; a bound, if the whole 95 % interval
    of the mean does. Both differ if the whole interval lies outside.

    Args:
        expected: What is expected.
        values: What was measured, one value a seed.
    """
    if len(values) < expected.seeds:
        return NOT_YET, f"{len(values)} of {expected.seeds} seeds"
    if not all(map(math.isfinite, values)):
        return NOT_YET, "not a finite number in every seed"
    low, high = (_wider(end, way) for end, way in zip(expected.range, (-1, 1), strict=True))
    if expected.value is not None and low <= sum(values) / len(values) <= high:
        return AGREE, ""
    reach = interval(values)
    if reach is None:
        return NOT_YET, "a single seed has no interval"
    if reach[1] < low or reach[0] > high:
        return DIFFER, ""
    if expected.value is None and low <= reach[0] and reach[1] <= high:
        return AGREE, ""
    return NOT_YET, "the interval reaches across a bound: more seeds"


def _wider(end: float, way: int) -> float:
    return end + way * _ROUNDING * max(1.0, abs(end))


def _values(expected: Expectation, run: Run, runs: Sequence[Run]) -> dict[int, float]:
    """Return by seed what is expected to be so or so.

    Raises:
        Missing: If a round of it is not there.
    """
    places = _places(expected)
    measured = [_by_seed(place, expected.measure, run, runs) for place in places]
    if len(measured) == 1:
        return measured[0]
    first, second = measured
    both = sorted(first.keys() & second.keys())
    if not both:
        raise Missing(f"{places[0]} and {places[1]} have no seed in common")
    if expected.minus is not None:
        return {seed: first[seed] - second[seed] for seed in both}
    return {seed: first[seed] / second[seed] if second[seed] else math.nan for seed in both}


def _by_seed(place: Place, measure: str, run: Run, runs: Sequence[Run]) -> dict[int, float]:
    home = _run(place.run, run, runs)
    values = MEASURES[measure].over(_line(place, home), place.round, home)
    if not values:
        raise Missing(f"{measure} of {place} was not measured")
    return values


def _places(expected: Expectation) -> list[Place]:
    named = {option: getattr(expected, option) for option in ("of", "minus", "over")}
    return [Place.parse(text, option) for option, text in named.items() if text is not None]


def _name(run: Run) -> str:
    return run.folder.resolve().name


def _run(name: str | None, run: Run, runs: Sequence[Run]) -> Run:
    if name is None:
        return run
    for given in runs:
        if _name(given) == name:
            return given
    beside = run.folder.resolve().parent / name
    if not beside.is_dir():
        raise Missing(f"there is no run {name} beside {run.folder}: give its folder too")
    try:
        return read_runs([beside])[0]
    except ValueError as error:
        raise Missing(str(error)) from None


def _line(place: Place, run: Run) -> Line:
    """Return the line that has finished a round.

    Raises:
        Missing: If none has; the message says which command makes them.
    """
    lines = [run.main] if place.line == MAIN else run.branches
    line = next((each for each in lines if each.branch in (None, place.line)), None)
    if line is not None and line.level(place.round):
        return line
    raise Missing(lacking(place, run))
