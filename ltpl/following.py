"""Branches that a config names: read before anything is trained, run after the main line."""

from __future__ import annotations

import fnmatch
import json
import shlex
from typing import Any

from ltpl.arguments import LONGEST_PATH, with_values
from ltpl.masks.errors import unknown
from ltpl.rounds.branch import Branch
from ltpl.rounds.plan import Plan


def commands(plan: Plan) -> list[list[str]]:
    """Return the arguments of `ltpl branch` for each branch that shall follow.

    Args:
        plan: Names the branches, and which of them are wanted.

    Raises:
        ValueError: If one cannot be read, or none is meant by `only`.
    """
    named = dict(plan.branches or {})
    only = [plan.only] if isinstance(plan.only, str) else plan.only
    for pattern in only or []:
        if not fnmatch.filter(named, pattern):
            raise unknown("only", pattern, named)
    wanted = [n for n in named if not only or any(fnmatch.fnmatchcase(n, p) for p in only)]
    found = []
    for name in wanted:
        try:
            words = shlex.split(named[name] or "")
        except ValueError as error:
            raise ValueError(f"branches.{name}={named[name]!r}: {error}.") from None
        said = {word.partition("=")[0] for word in words}
        if plan.seeds is not None and "--seeds" not in said:
            seeds = plan.seeds if isinstance(plan.seeds, list) else [plan.seeds]
            words += ["--seeds", ",".join(map(str, seeds))]
        shown = {"report": plan.report and name == wanted[-1], "quiet": plan.quiet}
        words += [f"--{option}={json.dumps(value)}" for option, value in shown.items()]
        found.append(["branch", plan.run, "--name", name, *words])
    return found


def rehearse(parser: Any, config: dict[str, Any], plan: Plan) -> None:
    """Read the options of all branches as they will be read then, and build what they name.

    Args:
        parser: Parses what follows the word `branch`.
        config: Options of the run.
        plan: Names the branches.

    Raises:
        ValueError: If an option is wrong.
    """
    options = json.dumps(config, default=str).ljust(LONGEST_PATH)
    for command in commands(plan):
        found = parser.parse_args(["--config", options, *with_values(command)[1:]])
        name = command[3]
        try:
            parser.instantiate_classes(found)
            branch = Branch(**{option: found[option] for option in vars(Branch(name="x"))})
        except ValueError as error:
            raise ValueError(f"branches.{name}: {error}") from None
        if branch.of is not None and branch.of not in (plan.branches or {}):
            raise unknown(f"branches.{name}: of", branch.of, plan.branches or {})
