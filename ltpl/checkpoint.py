"""What a trained checkpoint holds: the options it was trained with, weights, mask, snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ltpl.masks.errors import told_by_torch
from ltpl.masks.mask import Mask
from ltpl.masks.select import named_parameters
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.ticket import FINAL, MASK, START


def config_beside(given: Sequence[str]) -> tuple[Path, dict[str, Any]] | None:
    """Return the options that the training of a checkpoint had, if they are beside it.

    Args:
        given: What follows the command; the checkpoint comes first.

    Returns:
        The file of the options, and what it says.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If no config is beside it.
    """
    if not given or given[0].startswith("-"):
        return None
    path = Path(given[0])
    if not path.exists():
        raise FileNotFoundError(f"No checkpoint at {path}.")
    for folder in [path, *path.absolute().parents[:3]]:
        if (file := folder / "config.yaml").is_file():
            return file, _options(file)
    raise ValueError(f"No config.yaml beside {path}: name the one it was trained with, --config.")


def _options(file: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read: {told_by_torch(error)}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds a {type(config).__name__}; options are needed.")
    return config


def hyper_parameters(checkpoint: str | Path, weights_only: bool) -> dict[str, Any] | None:
    """Return the hyper-parameters that a checkpoint's module was saved with; None without any.

    Args:
        checkpoint: The checkpoint, or a word as `last` that stands for one.
        weights_only: Whether one that holds objects of classes is refused.

    Raises:
        ValueError: If it cannot be read without running code.
    """
    path = Path(checkpoint)
    if path.is_dir() and weights_only:
        raise ValueError(
            f"{path} is a folder: a checkpoint in parts is read with pickles, which run code. Give "
            "one file, or add --weights_only false if you know where it comes from."
        )
    if not path.is_file():
        return None
    try:
        found = _read(path, "meta").get("hyper_parameters")
    except ValueError:
        if weights_only:
            raise
        return None
    if not isinstance(found, (dict, type(None))):
        raise ValueError(f"{path}: its hyper-parameters are a {type(found).__name__}.")
    return found


def _read(path: Path, device: str = "cpu") -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        content["state_dict"].items()
    except Exception as error:  # whatever the reader says of a file that is something else
        raise ValueError(
            f"{path} is no checkpoint that can be read safely: {told_by_torch(error)}"
        ) from None
    return content


def restore(module: nn.Module, path: Path) -> tuple[Mask | None, list[str]]:
    """Put trained weights into a module; return the mask, and the snapshots that training made.

    Args:
        module: The LightningModule.
        path: A Lightning checkpoint, the folder of a finished round, or of an early-bird ticket.

    Raises:
        ValueError: If it is none of these, or does not fit.
    """
    if path.is_dir():
        return _restore_folder(module, path)
    content = _read(path)
    weights = content["state_dict"]
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        line = " ".join(str(error).split("\n")[:2])
        raise ValueError(f"{path} does not fit the network of the config: {line}") from None
    keep: dict[str, Any] = {}
    try:
        states = [x for x in content.get("callbacks", {}).values() if isinstance(x, dict)]
        for state in states:
            if "shapes" in state and "mask" in state:
                for name, kept in Mask.unpacked(state["mask"], state["shapes"]).items():
                    keep[name] = keep[name] & kept if name in keep else kept
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} holds a broken mask: {told_by_torch(error)}") from None
    snapshots = [s["snapshot"] for s in states if isinstance(s.get("snapshot"), str)]
    return Mask(keep) if keep else None, snapshots


def _restore_folder(module: nn.Module, path: Path) -> tuple[Mask | None, list[str]]:
    weights = next((f for f in (path / FINAL, path / START) if f.is_file()), None)
    if weights is None:
        raise ValueError(f"{path} is neither a finished round nor a ticket: it has no {FINAL}.")
    Snapshot.load(weights).restore_weights_(module)
    mask = Mask.load(path / MASK) if (path / MASK).is_file() else None
    return mask, [str(path / START)]


def zeros(module: nn.Module, checkpoint: str) -> Mask:
    """Return what is not zero, in a network that another tool has pruned.

    Raises:
        ValueError: If nothing is zero.
    """
    weights = {n: p for n, p in named_parameters(module).items() if p.dim() > 1}
    mask = Mask.nonzero(weights)
    if mask.kept == mask.total:
        raise ValueError(
            f"{checkpoint} holds no mask and no zeros: say how many channels shall go, as "
            "--amount 0.5."
        )
    return mask
