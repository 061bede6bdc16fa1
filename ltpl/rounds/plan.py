"""`Plan`: what shall run: levels, seeds, and what a run may change when it goes on."""

from __future__ import annotations

import fnmatch
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltpl.masks.errors import LARGEST_SEED, check_seed, check_types, checked, shown, unknown
from ltpl.report.expect import expectations
from ltpl.rounds.seeds import Seeds
from ltpl.tickets.fields import MOST
from ltpl.tickets.step import Step

LEVELS = 7  # at 20 % a round 21.1 % of the weights are left, the paper's headline
FREE = re.compile(  # options that no finished result depends on
    r"(run|levels|densities|seeds|snapshots|branches|only|quiet|report|expect)(\.|$)"
    r"|(save_every_n_steps|seed_everything)(\.|$)"
    r"|trainer\.(default_root_dir|enable_\w+|logger|profiler|num_sanity_val_steps)(\.|$)"
    r"|data\.(init_args\.)?(data_dir|root|pin_memory|persistent_workers)$"
)


@dataclass(frozen=True)
class Plan:
    """How many rounds, which seeds, and how a round is judged.

    Args:
        run: Folder of the run; a folder with a run in it goes on.
        levels: How many times to prune: 7 if nothing says so. Round 0 is the dense network.
        densities: Share of the weights to keep at each level instead, such as [0.5, 0.3, 0.1].
        one_shot: Whether each level is pruned from the dense network, not from the one before.
        snapshots: Moments of the dense training to keep, such as [10ep, 500it], for branches that
            rewind to them or prune there.
        branches: What `ltpl branch` shall run afterwards: options by name of the branch, such as
            {reinit: --levels 3-7}.
        only: Which of these branches: names or globs, `task_2*`; all if not given.
        seeds: Replicates: `0`, `0-4` or `0,3,7`; `seed_everything` if not given.
        init_seed: Seed of the initial weights; the replicate's number if not given.
        order_seed: Seed of the data order; the replicate's number if not given.
        augmentation_seed: Seed of augmentation and dropout; the replicate's number if not given.
        mask_seed: Seed of random masks; the replicate's number if not given.
        monitor: Validation loss whose minimum is the early-stop step; found by its name if not
            given.
        accuracy: Part of the name of the metric shown in tables.
        test_at: Which weights are tested, once a round: those of the `end` or of the `early_stop`.
        save_every_n_steps: Checkpoint every n steps inside epochs too; needed where epochs are
            long.
        expect: What the run should find, for `ltpl check`: a list of claims with their numbers.
        report: Whether to write the report page at the end.
        quiet: Whether to print nothing but errors.
    """

    run: str
    levels: int | None = None
    densities: list[float] | None = None
    one_shot: bool = False
    snapshots: list[str] | None = None
    branches: dict[str, str | None] | None = None
    only: str | list[str] | None = None
    seeds: str | int | list[int] | None = None
    init_seed: int | None = None
    order_seed: int | None = None
    augmentation_seed: int | None = None
    mask_seed: int | None = None
    monitor: str | None = None
    accuracy: str | None = None
    test_at: str = "end"
    save_every_n_steps: int | None = None
    expect: list[Any] | None = None  # of a dict, the parser would read texts as YAML once more
    report: bool = True
    quiet: bool = False

    def __post_init__(self) -> None:
        check_types(Plan, vars(self))
        if self.test_at not in ("end", "early_stop"):
            raise unknown("test_at", self.test_at, ["end", "early_stop"])
        if self.levels is not None and self.levels < 0:
            raise ValueError(f"levels={self.levels}: give 0 or more.")
        wanted = self.densities or []
        if any(not 0 < density < 1 for density in wanted):
            raise ValueError(f"densities={wanted}: shares to keep, each between 0 and 1.")
        if not self.one_shot and sorted(wanted, reverse=True) != wanted:
            raise ValueError(
                f"densities={wanted}: each round prunes the one before, so they must fall; with "
                "one_shot=true any order goes."
            )
        if self.densities and self.levels is not None and self.levels > len(self.densities):
            raise ValueError(
                f"levels={self.levels}, but densities={self.densities} has {len(self.densities)}."
            )
        for name in ("init_seed", "order_seed", "augmentation_seed", "mask_seed"):
            check_seed(name, getattr(self, name) or 0)
        if self.save_every_n_steps is not None and self.save_every_n_steps < 1:
            raise ValueError(f"save_every_n_steps={self.save_every_n_steps}: give 1 or more.")
        numbers(self.seeds, "seeds")
        expectations(self.expect)
        for moment in self.snapshots or []:
            Step.parse(moment, "snapshots")

    @property
    def moments(self) -> list[Step]:
        """The moments of the dense training to keep."""
        return [Step.parse(moment) for moment in self.snapshots or []]

    @property
    def patterns(self) -> list[str]:
        """Names and globs of the branches that are wanted; none if all are."""
        return [self.only] if isinstance(self.only, str) else self.only or []

    @property
    def chosen(self) -> list[str]:
        """The branches that are wanted, in their order.

        Raises:
            ValueError: If a pattern means none.
        """
        named, only = self.branches or {}, self.patterns
        for pattern in only:
            if not fnmatch.filter(named, pattern):
                raise unknown("only", pattern, named)
        return [n for n in named if not only or any(fnmatch.fnmatchcase(n, p) for p in only)]

    def depth(self, amounts: Sequence[float | None]) -> int:
        """Return how many levels there are.

        Args:
            amounts: What the pruner was given: one amount for all levels, or one for each.
        """
        given = len(amounts) if len(amounts) > 1 else None
        most = len(self.densities) if self.densities else given
        if self.levels is None:
            return most or LEVELS
        if most is not None and self.levels > most:
            raise ValueError(f"levels={self.levels}, but prune.amount gives {most}.")
        return self.levels

    def replicates(self, seed_everything: int | bool | None = None) -> list[int]:
        """Return the seeds to run."""
        fallback = seed_everything if type(seed_everything) is int else 0
        return numbers(fallback if self.seeds is None else self.seeds, "seeds")

    def seeds_of(self, replicate: int) -> Seeds:
        """Return the four seeds of a replicate."""
        fixed = (self.init_seed, self.order_seed, self.augmentation_seed, self.mask_seed)
        return Seeds(*(replicate if seed is None else seed for seed in fixed))

    def parent(self, level: int) -> int:
        """Return the level whose trained weights this one is pruned from."""
        return 0 if self.one_shot else level - 1


@checked
def numbers(text: str | int | list[int] | None, option: str) -> list[int]:
    """Read `3`, `0-4` or `0,2,5-7`.

    Raises:
        ValueError: If it is written otherwise.

    Example:
        >>> numbers("0,2,5-7", "seeds")
        [0, 2, 5, 6, 7]
    """
    if text is None:
        return []
    text = ",".join(map(str, text)) if isinstance(text, list) else str(text)
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + MOST - len(found) or last > LARGEST_SEED:
            raise ValueError(f"{option}={shown(text)}: write 3, 0-4 or 0,2,5.")
        found += range(first, last + 1)
    return sorted(set(found))


def ranges(numbers: list[int]) -> str:
    """Write numbers that rise as short as they can be read.

    Example:
        >>> ranges([3, 4, 5, 8])
        '3-5, 8'
    """
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in found)


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the options that differ and that finished results depend on, as `name: old -> new`.

    Densities and amounts may be continued, not changed. An option that an earlier version did not
    have yet is no change where it has its default.
    """
    before, after = flat(old), flat(new)
    names = sorted(before.keys() | after.keys())
    differ = [n for n in names if before.get(n) != after.get(n) and not FREE.match(n)]
    differ = [n for n in differ if n in before or not _is_default(n, after)]
    amounts = [n for n in differ if n.endswith(("amount", "amounts"))]
    was, now = before.get, after.get
    grown = [n for n in amounts if _several(was(n)) and _continued(was(n), now(n))]
    kept = [name for name in differ if name not in grown]
    if not _continued(before.get("densities"), after.get("densities")):
        kept.append("densities")
    return [f"{name}: {before.get(name)!r} -> {after.get(name)!r}" for name in kept]


def _is_default(name: str, options: Mapping[str, Any]) -> bool:
    """Whether an option has the value that its class, or the plan, gives it by itself."""
    owner, _, option = name.rpartition(".init_args.")
    module, _, kind = str(options.get(f"{owner}.class_path")).rpartition(".")
    found = getattr(sys.modules.get(module), kind, None) if owner else Plan
    parameters = inspect.signature(found).parameters if isinstance(found, type) else {}
    return option in parameters and parameters[option].default == options[name]


def _several(amount: Any) -> bool:
    """Whether an amount speaks of each level; a single one stands for all."""
    return isinstance(amount, list) and len(amount) > 1


def _continued(before: Any, after: Any) -> bool:
    """Whether a list of one entry a level was only made longer or shorter at its end."""
    if isinstance(before, list) and isinstance(after, list):
        shared = min(len(before), len(after))
        return before[:shared] == after[:shared]
    return bool(before == after)


def flat(options: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested options as one dictionary of dotted names."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
