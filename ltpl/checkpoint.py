"""What a trained checkpoint holds: the options it was trained with, weights, mask, snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ltpl.masks.mask import Mask
from ltpl.masks.select import named_parameters
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.ticket import FINAL, MASK, START


def config_beside(given: Sequence[str]) -> dict[str, Any] | None:
    """Return the options that the training of a checkpoint had, if they are beside it.

    Args:
        given: What follows the command; the checkpoint comes first.

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
        if (folder / "config.yaml").is_file():
            config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
            return config
    raise ValueError(f"No config.yaml beside {path}: name the one it was trained with, --config.")


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
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        weights, states = content["state_dict"], content.get("callbacks", {}).values()
    except Exception as error:  # whatever the reader says of a file that is something else
        line = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is no checkpoint that can be read safely: {line}") from None
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        line = " ".join(str(error).split("\n")[:2])
        raise ValueError(f"{path} does not fit the network of the config: {line}") from None
    states = [state for state in states if isinstance(state, dict)]
    keep: dict[str, Any] = {}
    for state in states:
        if "shapes" in state and "mask" in state:
            for name, kept in Mask.unpacked(state["mask"], state["shapes"]).items():
                keep[name] = keep[name] & kept if name in keep else kept
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
