"""The command that would make a round which is not there yet."""

from __future__ import annotations

import difflib
import shlex

from ltpl.report.expect import MAIN, Place
from ltpl.report.lines import Line, Run


def lacking(place: Place, run: Run) -> str:
    """Return that a round is not there, and which command makes it.

    Args:
        place: The round.
        run: The run that it belongs to.
    """
    folder, name = shlex.quote(str(run.folder)), place.line
    line = next((each for each in run.branches if each.branch == name), None)
    planned = _planned(run)
    options = _options(planned.get(name), line)
    from_dense = {"ladder", "--of"} & {name, *options}  # needs no other round of the main line
    if name == MAIN or (place.round and not from_dense and not run.main.level(place.round)):
        again = f"ltpl rounds ... --run {folder} --levels {place.round}"
        return f"{run.name} has no round {place.round}: {again}"
    guess = ""
    if line is None and name not in planned:
        others = [*planned, *(each.branch for each in run.branches if each.branch)]
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.75)
        guess = f" (did you mean {close[0]}@{place.round}?)" if close else ""
    words = ["--name", name, *options, "--levels", str(place.round)]
    return (
        f"branch {name} has no round {place.round}{guess}: ltpl branch {folder} {shlex.join(words)}"
    )


def _planned(run: Run) -> dict[str, str]:
    """Return the options of the branches that the config of a run names, by name."""
    config = run.record.get("config")
    named = config.get("branches") if isinstance(config, dict) else None
    found = named.items() if isinstance(named, dict) else ()
    return {str(name): text if isinstance(text, str) else "" for name, text in found}


def _options(planned: str | None, line: Line | None) -> list[str]:
    """Return what makes a branch what it is, as the config has it, but for the levels."""
    if planned is None:
        known = line is not None and line.kind not in (None, line.branch)
        return ["--kind", str(line.kind)] if line is not None and known else []
    try:
        words = shlex.split(planned)
    except ValueError:
        return []
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word.partition("=")[0] != "--levels" and before != "--levels"
    ]
