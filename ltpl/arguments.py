"""What is done to the arguments of a command before they are parsed."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

from ltpl.checkpoint import config_beside
from ltpl.rounds.plan import Plan

USUAL = {
    "prune": {"class_path": "ltpl.callbacks.PruneAtEpoch"},
    "rewind": {"class_path": "ltpl.callbacks.RewindToEpoch"},
    "slim": {"class_path": "ltpl.callbacks.NetworkSlimming"},
    "early_bird": {"class_path": "ltpl.callbacks.EarlyBird"},
    "edges": {"class_path": "ltpl.callbacks.EdgePruning"},
    "distill": {"class_path": "ltpl.callbacks.Distillation"},
}
SWITCHES = ("--quiet", "--one_shot", "--onnx", "--export", "--l1", "--verify")


def must_not_plan(given: list[str]) -> None:
    """Options of `rounds` may stand in a config that `fit` shares, not on its command line."""
    for name in vars(Plan(run="")):
        if any(x.partition("=")[0] == f"--{name}" for x in given):
            raise ValueError(f"--{name} is an option of `rounds`, not of `{given[0]}`.")


def with_config_beside(given: list[str]) -> list[str]:
    """Let `ltpl compact CKPT` begin with the options that its training had."""
    asked = {"-c", "--config", "--help", "-h"} & {x.partition("=")[0] for x in given}
    config = None if asked else config_beside(given[1:])
    return given if config is None else ["compact", "--config", json.dumps(config), *given[1:]]


def with_values(given: list[str]) -> list[str]:
    """Let switches stand alone: `--quiet` for `--quiet true`."""
    alone = [after[:1] in ("", "-") for after in [*given[1:], ""]]
    return [
        f"{x}=true" if x in SWITCHES and last else x for x, last in zip(given, alone, strict=True)
    ]


def with_classes(given: list[str]) -> list[str]:
    """Let the class that is usually in a slot go without saying: `--distill.teacher dense.ckpt`.

    `--prune.help` shows its options.
    """
    for slot, kind in USUAL.items():
        if (asked := f"--{slot}.help") in given:
            after = given.index(asked) + 1
            if given[after:][:1] == [] or given[after].startswith("-"):
                return [*given[:after], kind["class_path"], *given[after:]]
    if given[:1] in (["branch"], ["compact"]):  # what is in the slots, their run or checkpoint says
        return given
    configs = "".join(map(_text, _configs(given)))
    for slot, kind in USUAL.items():
        options = [n for n, x in enumerate(given) if x.startswith(f"--{slot}.")]
        said = any(x.partition("=")[0] == f"--{slot}" for x in given)
        if options and not said and not re.search(rf"^{slot}:", configs, re.MULTILINE):
            given = [*given[: options[0]], f"--{slot}", kind["class_path"], *given[options[0] :]]
    return given


def _configs(given: list[str]) -> list[str]:
    """Return the files that are named as configs."""
    beside = [after for x, after in itertools.pairwise(given) if x in ("-c", "--config")]
    return beside + [x.partition("=")[2] for x in given if x.startswith("--config=")]


def _text(path: str) -> str:
    try:
        return Path(path).read_text() + "\n"
    except (OSError, ValueError):  # the parser says what is wrong with it
        return ""
