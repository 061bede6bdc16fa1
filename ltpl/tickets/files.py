"""Nested state in one safetensors file: tensors as tensors, the rest as JSON, a digest over both.

Optimiser and scheduler states are dictionaries of dictionaries with tensors and numbers inside.
They are stored without pickle, so reading a file never runs code.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ltpl.masks.files import read_tensors, write_tensors
from ltpl.masks.mask import FORMAT as MASK_FORMAT
from ltpl.masks.mask import Mask


def save_state(path: str | Path, state: Any, kind: str) -> None:
    """Write `state` to `path`, whole or not at all.

    Args:
        path: The file.
        state: Dictionaries, lists and tuples of tensors, numbers, strings and None.
        kind: What the file is, checked on loading.

    Raises:
        TypeError: If something inside `state` cannot be stored; its place is named.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_flatten(state, "", tensors))
    header = {"format": kind, "tree": tree, "digest": _digest(tree, tensors)}
    write_tensors(path, tensors, header)


def digest_of(state: Any, kind: str) -> str:
    """Return the digest that a file of `state` has."""
    tensors: dict[str, Tensor] = {}
    return _digest(json.dumps(_flatten(state, "", tensors)), tensors)


def stored_digest(path: str | Path) -> str | None:
    """Return the digest that a file states, without reading its tensors; None if it states none."""
    return _header(path).get("digest")


def stored_format(path: str | Path) -> str | None:
    """Return what kind of file it says it is; None if it says nothing or is not there."""
    return _header(path).get("format")


def _header(path: str | Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def load_state(path: str | Path, kind: str) -> Any:
    """Read what `save_state` wrote, and check it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, cut short or changed.
    """
    header, tensors = read_tensors(path, kind)
    if header.get("format") != kind:
        raise ValueError(f"{path} is no {kind}: its format is {header.get('format')!r}.")
    try:
        whole = _digest(header["tree"], tensors) == header["digest"]
        if whole:
            return _unflatten(json.loads(header["tree"]), tensors)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no {kind}: {type(error).__name__} in its header.") from None
    raise ValueError(f"{path} was changed after it was written: its digest differs.")


def must_be_whole(path: str | Path, digest: str) -> None:
    """Compare all of a mask or a state with the digest in it, and that with the expected one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is cut short, was changed, or is another one.
    """
    kind = stored_format(path) or "file"
    if kind == MASK_FORMAT:
        Mask.load(path)
    else:
        load_state(path, kind)
    if stored_digest(path) != digest:
        raise ValueError(f"{path} is not the one that was written first: its digest differs.")


def is_whole(path: str | Path, digest: str) -> bool:
    """Whether a file is there, as it was written."""
    try:
        must_be_whole(path, digest)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _flatten(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().contiguous().clone()
        return {"tensor": place}
    if isinstance(value, Mapping):
        kind = "counter" if isinstance(value, Counter) else "dict"
        entries = [(k, v, f"{place}.{k}".lstrip(".")) for k, v in value.items()]
        return {kind: [[k, _flatten(v, inside, tensors)] for k, v, inside in entries]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_flatten(v, f"{place}.{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"{place} is a {type(value).__name__}; only tensors, numbers, strings and containers of "
        "them can be stored."
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind in ("dict", "counter"):
        entries = {k: _unflatten(v, tensors) for k, v in content}
        return Counter(entries) if kind == "counter" else entries
    items = [_unflatten(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items


def _digest(tree: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(tree.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
