"""Compacted networks in files: how they differ from a new network of their class, and weights."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.compaction.made import made
from ltpl.compaction.rewrite import rebuild
from ltpl.compaction.spec import Spec, spec_of
from ltpl.masks.errors import checked
from ltpl.masks.select import named_buffers, named_parameters
from ltpl.tickets.files import load_state, save_state

FORMAT = "ltpl.compact/1"
FILE = "compact.safetensors"
NETWORKS = (  # classes of libraries that a file may name; PyG's Sequential writes code from texts
    "ltpl.models",
    "ltpl.modules",
    "torch.nn",
    "torchvision.models",
    "torchvision.ops",
    *(f"torch_geometric.nn.{room}" for room in ("aggr", "conv", "dense", "models", "norm", "pool")),
)
LIBRARIES = {"ltpl", "torch", "torchvision", "torch_geometric"}
# how much larger than the file the network before may have been
WIDER, SMALL, DEEPER, SHALLOW = 10_000, 10**8, 10, 1000


@checked
def save(
    model: nn.Module,
    path: str | Path,
    *,
    arguments: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
) -> None:
    """Write a compacted network to one file, whole or not at all; `load` reads it.

    Args:
        model: What `compact` returned, trained on or not.
        path: The file.
        arguments: What the original class is called with; known for `ltpl.models`. Only numbers,
            strings, and lists and dictionaries of them. None: `load` has to be given a network.
        about: More to keep with it: what made it, what was measured. JSON values only.
    """
    spec = spec_of(model)
    if arguments is not None:
        spec = replace(spec, arguments=arguments)
    state = {
        "spec": spec.as_json(),
        "tensors": {name: tensor.detach() for name, tensor in _tensors(model).items()},
        "about": about or {},
    }
    save_state(path, state, FORMAT)


@checked
def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Read a compacted network. No code in the file is run.

    Args:
        path: The file, or the folder that `ltpl compact` wrote.
        model: A network of the original class and size, which becomes the small one. If not given,
            the class that the file names is made anew: one of `ltpl`, torchvision or PyG, or one
            that is imported already.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind or was changed, or its class is not known here.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    state = load_state(path, FORMAT)
    spec, tensors = Spec.from_json(state["spec"]), state["tensors"]
    if model is None:
        with torch.random.fork_rng(devices=[]):
            model = _made(spec.network, spec.arguments, path, tensors)
    new = [f"{p}.bias" for p in spec.biases] + [f"{p}.selected" for p in spec.selections]
    changed = [f"{p}.weight" for p in (*spec.biases, *spec.selections)]
    # code that is written anew drops what it does not use
    needed = set() if spec.literals else model.state_dict().keys() & _tensors(model).keys()
    _must_have(model, path, {*tensors.keys() - new, *changed}, needed)
    for name, own in _tensors(model).items():
        if name in tensors:
            own.data = own.data.to(tensors[name].dtype)
    small = rebuild(model, spec, tensors)
    persistent = small.state_dict(keep_vars=True).keys()
    _must_have(small, path, tensors.keys(), _tensors(small).keys() & persistent)
    return small


def _must_have(
    model: nn.Module, path: Path, names: Iterable[str], needed: Iterable[str] = ()
) -> None:
    if odd := sorted(set(names) - _tensors(model).keys() | set(needed) - set(names)):
        kind = type(model).__name__
        raise ValueError(
            f"{path} does not fit {kind}: {', '.join(odd[:4])}. Give a new network of the original "
            "class and size."
        )


def about(path: str | Path) -> dict[str, Any]:
    """Return what else was kept in the file of a compacted network."""
    path = Path(path)
    found: dict[str, Any] = load_state(path / FILE if path.is_dir() else path, FORMAT)["about"]
    return found


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, tied ones once.

    Buffers that are not persistent count too: those of a new network are as wide as before.
    """
    return {**named_parameters(model), **named_buffers(model)}


def _made(
    name: str, arguments: dict[str, Any] | None, path: Path, tensors: Mapping[str, Tensor]
) -> nn.Module:
    """Return a new network of the class that a file names."""
    module, _, kind = name.partition(":")
    if arguments is None:
        raise ValueError(
            f"{path} holds a {kind}, but not what it is called with: give load(path, model=...) a "
            f"new {kind} of the original size, or save it with arguments=...."
        )
    found: Any = sys.modules.get(module)
    if found is None and _within(module, NETWORKS):
        with contextlib.suppress(ImportError):
            found = importlib.import_module(module)
    for part in kind.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(
            f"{path} holds a {kind} of {module}, which is not imported here: import it first, or "
            "give load(path, model=...) a new one of the original size."
        )
    if found.__module__.partition(".")[0] in LIBRARIES and not _within(found.__module__, NETWORKS):
        raise ValueError(
            f"{path} holds a {kind} of {module}, which no file may name: give load(path, model=...)"
            " a new one of the original size."
        )
    weights = WIDER * sum(tensor.numel() for tensor in tensors.values()) + SMALL
    try:
        return made(found, arguments, weights, DEEPER * len(tensors) + SHALLOW)
    except Exception as error:  # whatever the class makes of them
        raise ValueError(f"{path}: {kind} cannot be made with {arguments}: {error}.") from None


def _within(module: str, names: Iterable[str]) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in names)
