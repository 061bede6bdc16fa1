"""Branches that a config names: read before anything is trained, run after the main line."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ltpl.arguments import LONGEST_PATH, with_values
from ltpl.rounds.branch import Branch
from ltpl.rounds.configured import Configured, listed
from ltpl.rounds.experiment import check_levels, slots
from ltpl.rounds.foreseen import Foreseen, must_be_found
from ltpl.rounds.plan import Plan
from ltpl.rounds.run import is_dry


def commands(plan: Plan) -> list[list[str]]:
    """Return the arguments of `ltpl branch` for each branch that shall follow.

    Args:
        plan: Names the branches, and which of them are wanted.

    Raises:
        ValueError: If one cannot be read, or none is meant by `only`.
    """
    named, wanted = dict(plan.branches or {}), plan.chosen
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


def rehearse(parser: Any, experiment: Configured, plan: Plan, seeds: list[int]) -> None:
    """Read the options of all branches as they will be read then, and build what they name.

    Args:
        parser: Parses what follows the word `branch`.
        experiment: Has the options of the run.
        plan: Names the branches.
        seeds: Replicates of the run.

    Raises:
        ValueError: If an option is wrong, or a branch would not find the rounds that it needs.
    """
    options = json.dumps(experiment.config, default=str).ljust(LONGEST_PATH)
    foreseen = Foreseen.of(experiment, plan, seeds)
    for command in commands(plan):
        found = parser.parse_args(["--config", options, *with_values(command)[1:]])
        name = command[3]
        try:
            built = parser.instantiate_classes(found)
            branch = Branch(**{option: found[option] for option in vars(Branch(name="x"))})
            pruner, _ = slots(built.get("prune"), built.get("rewind"))
            basis = foreseen.basis(branch, pruner.amounts)
            check_levels(listed(built.get("trainer.callbacks")), max(basis.levels, default=0))
            if not is_dry(experiment):
                must_be_found(basis)
        except ValueError as error:
            raise ValueError(f"branches.{name}: {error}") from None
        foreseen.branches[name] = foreseen.finished(name) | {*basis.rounds}
