"""`ltpl status`: what is done, what is left, and what the next command will reuse."""

from __future__ import annotations

from pathlib import Path

from ltpl.rounds.finite import diverged_before
from ltpl.rounds.plan import ranges
from ltpl.rounds.tree import RunTree
from ltpl.tickets.result import FILE, branches, seeds_and_rounds
from ltpl.tickets.ticket import MASK

QUIET = ("done", "left", "ticket drawn")  # states that many rounds share


def status(folder: str | Path, verify: bool = False) -> str:
    """Return what is done and what is left of a run and its branches, as text.

    Args:
        folder: The run.
        verify: Whether to compare every file of finished rounds with its digest.

    Raises:
        ValueError: If it is no run.
    """
    run = RunTree.existing(folder)
    record = run.read()
    levels = range(int(record["levels"]) + 1)
    seeds, levels_ = len(record["seeds"]), int(record["levels"])
    lines = [f"{run.path}: {_count(seeds, 'seed')}, {_count(levels_, 'level')}"]
    lines += _lines(run, record["seeds"], list(levels), verify)
    for path in branches(run.path):
        branch = run.branch(path.name)
        if branch.record.is_file():
            made = branch.read()
            lines.append(f"branch {path.name} ({made['kind']})")
            lines += _lines(branch, made["seeds"], made["rounds"], verify)
    return "\n".join(lines)


def _lines(tree: RunTree, seeds: list[int], levels: list[int], verify: bool) -> list[str]:
    there = {(seed, level): path for seed, level, path in seeds_and_rounds(tree.path)}
    lines = []
    for seed in seeds:
        state = {level: _state(there.get((seed, level))) for level in levels}
        done = [level for level, word in state.items() if word == "done"]
        words = [f"{len(done)} of {len(levels)} rounds done"]
        words += [f"round {level} {word}" for level, word in state.items() if word not in QUIET]
        left = [level for level, word in state.items() if word in QUIET and word != "done"]
        if left:
            words.append(f"left: {ranges(left)}")
        lines.append(f"  seed {seed}: {', '.join(words)}")
        wrong = (tree.damage(seed, level) for level in done) if verify else ()
        lines += [f"    {what} `rounds` runs it again." for what in wrong if what]
    return lines


def _state(path: Path | None) -> str:
    if path is None:
        return "left"
    if (path / FILE).is_file():
        return "done"
    if astray := diverged_before(path):
        return f"went astray ({astray})"
    if (path / "checkpoints" / "last.ckpt").is_file():
        return "interrupted, goes on from its checkpoint"
    return "ticket drawn" if (path / MASK).is_file() else "left"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
