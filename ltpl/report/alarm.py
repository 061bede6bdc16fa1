"""The alarm: a round in which a layer is dead, or the whole network is."""

from __future__ import annotations

from ltpl.tickets.result import Result

_MOST_NAMED = 4  # layers in one line


def alarm(result: Result) -> str | None:
    """Return one line on what is dead in a round and what to do; None if everything lives.

    Args:
        result: A finished round.
    """
    if not result.dead and result.live_paths != 0:
        return None
    named = ", ".join(result.dead[:_MOST_NAMED])
    more = len(result.dead) - _MOST_NAMED
    named += f" and {more} more" if more > 0 else ""
    what = f"no path of kept weights runs through {named}"
    if result.live_paths == 0 or result.live_inputs == 0:
        what = f"no path of kept weights leads from the input to the output: dead are {named}"
    branch = "" if result.branch is None else f"{result.branch}, "
    return (
        f"Alarm: {branch}seed {result.seed} round {result.round}: {what}. Prune less, prune these "
        "at a lower rate (rates), raise min_keep, or rank all layers together (scope: global)."
    )
