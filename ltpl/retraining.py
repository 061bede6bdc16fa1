"""The config that trains a compacted network further, made from the one it was trained with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ltpl.compaction.store import FILE
from ltpl.masks.files import whole_file

DROPPED = ("prune", "rewind", "early_bird", "ckpt_path", "weights_only", "run")


def write_config(
    config: dict[str, Any], out: Path, path: str, pruned: Sequence[str], l1: bool, longer: float
) -> None:
    """Write `config.yaml`, if the config says which network the module is given.

    Args:
        config: The options of the training before.
        out: Folder of the compacted network.
        path: Where the network is in the LightningModule.
        pruned: Parameters that hold pruned weights still, which have to stay zero.
        l1: Whether the penalty of the `slim` slot goes on.
        longer: A factor on the number of epochs.
    """
    config = json.loads(json.dumps(config, default=str))
    config = {name: value for name, value in config.items() if name not in DROPPED}
    holder = _holder(config, path)
    if holder is None:  # the module builds its network itself: use ltpl.load
        return
    load = {"class_path": "ltpl.load", "init_args": {"path": str(out / FILE)}}
    holder[path.rpartition(".")[2]] = load
    slim = config.get("slim")
    if slim is not None and l1:
        slim["init_args"]["amount"] = slim["init_args"]["epoch"] = None
    else:
        config["slim"] = None
    trainer = config.setdefault("trainer", {})
    trainer["default_root_dir"] = str(out)
    if trainer.get("max_epochs"):
        trainer["max_epochs"] = round(trainer["max_epochs"] * longer)
    if pruned:
        frozen = {"include": list(pruned)}
        freeze = {"class_path": "ltpl.callbacks.FreezeSparsity", "init_args": frozen}
        given = trainer.get("callbacks") or []
        trainer["callbacks"] = [*(given if isinstance(given, list) else [given]), freeze]
    with whole_file(out / "config.yaml") as beside:
        beside.write_text(yaml.safe_dump(config, sort_keys=False))


def arguments_of(config: dict[str, Any], path: str) -> dict[str, Any] | None:
    """Return what a config says that a network is called with; None if it is more than numbers.

    Args:
        config: The options.
        path: Where the network is in the LightningModule; empty for the module itself.
    """
    if path:
        holder = _holder(config, path)
        said = None if holder is None else holder[path.rpartition(".")[2]].get("init_args", {})
    else:
        module = config.get("model") or {}
        said = module.get("init_args", {}) if "class_path" in module else module
    plain = (bool, int, float, str, type(None))
    if said is None or not all(isinstance(value, plain) for value in said.values()):
        return None
    return dict(said)


def _holder(config: dict[str, Any], path: str) -> dict[str, Any] | None:
    """Return the part of a config that says which class a network has, by the network's name."""
    module = config.get("model") or {}
    holder: Any = module.get("init_args", module)
    *parents, name = path.split(".")
    for parent in parents:
        holder = holder.get(parent) if isinstance(holder, dict) else None
    found = isinstance(holder, dict) and isinstance(holder.get(name), dict)
    return holder if found and "class_path" in holder[name] else None
