"""What the record of a run or a branch must say before anything counts on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltpl.tickets.fields import LARGEST, MOST

_SEEDS = ("init_seed", "order_seed", "augmentation_seed", "mask_seed", "save_every_n_steps")
_TEXTS = ("monitor", "accuracy", "test_at")
_SWITCHES = ("one_shot", "report", "quiet")


def must_be_sound(content: Mapping[str, Any]) -> None:
    """Refuse a record that no run could have written.

    Args:
        content: What the record says.

    Raises:
        ValueError: If something is missing, of another kind or absurd; the message names it.
    """
    config = content.get("config")
    if not isinstance(config, dict):
        raise ValueError("it has no config")
    for levels in (content.get("levels", 0), config.get("levels") or 0):
        _must("levels", levels, _whole(levels, MOST))
    for name in _SEEDS:
        _must(name, config.get(name), _whole(config.get(name) or 0))
    _must("seeds", content.get("seeds"), _numbers(content.get("seeds")))
    rounds = content.get("rounds")  # of a branch; a run has levels
    _must("rounds", rounds, _numbers(rounds) if "kind" in content else "levels" in content)
    seeds, wanted = config.get("seeds"), config.get("densities")
    _must("seeds", seeds, type(seeds) in (str, int, type(None)) or _numbers(seeds))
    shares = isinstance(wanted, list) and all(type(x) in (int, float) for x in wanted)
    _must("densities", wanted, wanted is None or (shares and len(wanted) <= MOST))
    for names, kind in ((_TEXTS, str), (_SWITCHES, bool)):
        for name in names:
            _must(name, config.get(name), isinstance(config.get(name), (kind, type(None))))
    _must("kind", content.get("kind"), isinstance(content.get("kind", ""), str))


def _must(name: str, value: Any, right: bool) -> None:
    if not right:
        raise ValueError(f"its {name} is {str(value)[:60]!r}")


def _whole(value: Any, most: int = LARGEST) -> bool:
    return type(value) is int and 0 <= value <= most


def _numbers(value: Any) -> bool:
    """Whether it is a list of seeds or of rounds."""
    return isinstance(value, list) and len(value) <= MOST and all(map(_whole, value))


def must_stay_inside(folder: Path) -> None:
    """Refuse a tree in which a link leads out: what is written or removed there lies elsewhere.

    Raises:
        ValueError: If there is such a link.
    """
    root = folder.resolve()
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            link = Path(path, name)
            if link.is_symlink() and not link.resolve().is_relative_to(root):
                raise ValueError(
                    f"{link} leads to {link.resolve()}, out of {folder}, and nothing is written "
                    "there: replace the link by the folder."
                )
