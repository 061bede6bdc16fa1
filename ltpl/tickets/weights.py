"""The weights of a network in whatever file a training has left; reading runs no code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ltpl.masks.errors import shown, told_by_torch
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.ticket import FINAL


def load_weights_(network: nn.Module, path: str | Path, prefix: str = "") -> None:
    """Put trained weights and buffers into a network.

    Args:
        network: The network.
        path: The folder of a finished round, a snapshot, a Lightning checkpoint, or a file of
            `torch.save(network.state_dict())`.
        prefix: What the names of the network's weights begin with there, if there is a choice.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read without running code, or does not fit the network.
    """
    path = Path(path).expanduser()
    found = {plain(name): tensor for name, tensor in _read(path).items()}
    own = network.state_dict(keep_vars=True)
    entries = {name: tensor for name, tensor in own.items() if isinstance(tensor, Tensor)}
    names: dict[int, list[str]] = {}  # tied weights have several, and a file may know but one
    for name, tensor in entries.items():
        names.setdefault(id(tensor), []).append(plain(name))

    def source(name: str, begin: str) -> Tensor | None:
        known = (found.get(begin + alias) for alias in names[id(entries[name])])
        return next((tensor for tensor in known if tensor is not None), None)

    def misfits(begin: str) -> list[str]:
        there = {name: source(name, begin) for name in entries}
        return [name for name, tensor in there.items() if not _fits(tensor, entries[name])]

    choices = sorted(_beginnings(found, map(plain, entries)), key=lambda b: (b != prefix, b))
    right = [begin for begin in choices if not misfits(begin)]
    if not right or (len(right) > 1 and right[0] != prefix):
        kind = type(network).__name__
        if right:
            raise ValueError(f"{path} holds several networks like {kind}: {', '.join(right)}.")
        begin = min(choices, key=lambda b: len(misfits(b)), default=prefix)
        raise ValueError(f"{path} does not fit {kind}: {_told(misfits(begin)[0], begin, source)}.")
    network.load_state_dict({name: source(name, right[0]) for name in entries}, strict=False)


def plain(name: str) -> str:
    """Return a name without what `torch.compile` adds to it."""
    return name.replace("_orig_mod.", "")


def must_exist(path: Path) -> None:
    """Raise if there is neither such a file nor such a folder.

    Raises:
        FileNotFoundError: If there is not.
    """
    if not path.exists():
        raise FileNotFoundError(f"No trained weights at {shown(str(path), 400)}.")


def _read(path: Path) -> Mapping[str, Tensor]:
    must_exist(path)
    file = path / FINAL if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{path} is no finished round: it has no {FINAL}.")
    if file.suffix == ".safetensors":
        snapshot = Snapshot.load(file)
        return {**snapshot.weights, **snapshot.buffers}
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        weights = content.get("state_dict", content)
        return {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # whatever the reader says of a file that is something else
        line = told_by_torch(error)
        raise ValueError(f"{file} is no checkpoint that can be read safely: {line}") from None


def _beginnings(found: Iterable[str], names: Iterable[str]) -> set[str]:
    """Return what may stand before the network's names: what stands before its first one."""
    first = next(iter(names), "")
    return {name.removesuffix(first) for name in found if f".{name}".endswith(f".{first}")}


def _fits(tensor: Tensor | None, entry: Tensor) -> bool:
    return tensor is not None and (is_lazy(entry) or tensor.shape == entry.shape)


def _told(name: str, begin: str, source: Callable[[str, str], Tensor | None]) -> str:
    tensor = source(name, begin)
    if tensor is None:
        return f"it has no {begin}{name}"
    return f"{begin}{name} is {tuple(tensor.shape)} there"
