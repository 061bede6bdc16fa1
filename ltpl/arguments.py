"""What is done to the arguments of a command before they are parsed."""

from __future__ import annotations

import itertools
import json
import re
from os.path import isdir, isfile  # a name too long for a file is none
from pathlib import Path
from typing import Any

from ltpl.checkpoint import config_beside
from ltpl.compacted import Compact
from ltpl.rounds.branch import Branch
from ltpl.rounds.plan import Plan
from ltpl.rounds.tree import RunTree
from ltpl.trust import Trust

USUAL = {
    "prune": {"class_path": "ltpl.callbacks.PruneAtEpoch"},
    "rewind": {"class_path": "ltpl.callbacks.RewindToEpoch"},
    "slim": {"class_path": "ltpl.callbacks.NetworkSlimming"},
    "early_bird": {"class_path": "ltpl.callbacks.EarlyBird"},
    "edges": {"class_path": "ltpl.callbacks.EdgePruning"},
    "distill": {"class_path": "ltpl.callbacks.Distillation"},
}
SWITCHES = ("--quiet", "--one_shot", "--onnx", "--export", "--latency", "--l1", "--verify")
LONGEST_PATH = 5000
TRUST = "Build whatever a run or checkpoint names: from a stranger, that is running their code."


def add_options_over_runs(parser: Any, command: str) -> None:
    """Add the options of a command that reads runs and trains nothing."""
    parser.add_argument("runs", nargs="+", help="Folders of runs.")
    if command == "status":
        parser.add_argument("--verify", type=bool, default=False, help="Read every file.")
    elif command == "report":
        parser.add_argument("--out", type=str | None, help="Folder of the page.")
        parser.add_argument("--rounds", type=str | None, help="Rounds with curves: 0,3,7.")
    elif command == "check":
        parser.add_argument("--config", type=str | None, help="Config with an `expect` block.")
        parser.add_argument("--out", type=str | None, help="A .md, .csv or .json file.")


def must_not_plan(given: list[str]) -> None:
    """Options of `rounds` may stand in a config that `fit` shares, not on its command line."""
    for name in vars(Plan(run="")):
        if any(x.partition("=")[0] == f"--{name}" for x in given):
            raise ValueError(f"--{name} is an option of `rounds`, not of `{given[0]}`.")


def without_trust(given: list[str]) -> tuple[list[str], bool]:
    """Take `--trust` off where a command knows it, and say whether it was there."""
    if given[:1] in (["rounds"], ["status"], ["report"], ["check"]):
        return given, False
    rest, trusts = [], False
    for before, x in itertools.pairwise(["", *given]):
        if x in ("--trust", "--trust=true", "--trust=false"):
            trusts = x != "--trust=false"
        elif before == "--trust" and x in ("true", "false"):
            trusts = x == "true"
        else:
            rest.append(x)
    return rest, trusts


def with_config_beside(given: list[str], trust: Trust | None) -> list[str]:
    """Let `ltpl compact CKPT` begin with the options that its training had."""
    asked = {"-c", "--config", "--help", "-h"} & {x.partition("=")[0] for x in given}
    beside = None if asked else config_beside(given[1:])
    if beside is None:
        return given
    file, config = beside
    return ["compact", "--config", _told(config, Compact, file, trust), *given[1:]]


def with_options_of_the_run(given: list[str], trust: Trust | None) -> list[str]:
    """Let `ltpl branch DIR` begin with the options of its run."""
    folders = [x for x in given[1:] if isfile(Path(x) / "run.json")] or given[1:2]
    if not folders or folders[0].startswith("-"):
        return given
    run = RunTree.existing(folders[0])
    options = _told(run.read()["config"], Branch, run.record, trust)
    return ["branch", "--config", options, *given[1:]]


def _told(config: dict[str, Any], command: type, file: Path, trust: Trust | None) -> str:
    """Return the options that are the project's, and not the command's, as JSON."""
    if trust is not None:
        trust.must_allow(config, file)
    ours = {*Plan.__dataclass_fields__, *command.__dataclass_fields__, "config"}  # type: ignore[attr-defined]
    try:
        text = json.dumps({name: value for name, value in config.items() if name not in ours})
        return text.ljust(LONGEST_PATH)  # or else a file of that name would be read instead
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} holds no options: {error}.") from None


def named(given: list[str]) -> list[Any]:
    """Return what a user names on the command line and in configs of their own."""
    values = [x.partition("=")[2] if x.startswith("--") else x for x in given]
    return [*values, *map(_text, _configs(given))]


def with_values(given: list[str]) -> list[str]:
    """Let switches stand alone: `--quiet` for `--quiet true`."""
    alone = [after[:1] in ("", "-") or isdir(after) for after in [*given[1:], ""]]
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
