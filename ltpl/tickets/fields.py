"""What the fields of a result may hold: one that was written elsewhere may say anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST = 10_000  # rounds of a run
LARGEST = 2**63 - 1


def _whole(value: Any, most: int = LARGEST) -> bool:
    return type(value) is int and 0 <= value <= most


def _number(value: Any) -> bool:
    """Whether it is a number that can be drawn, or says that training went wrong."""
    if type(value) not in (int, float):
        return False
    return abs(value) <= 1e100 or (type(value) is float and not math.isfinite(value))


def _metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_number, value.values()))


def _layers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(layer, (list, tuple))
        and len(layer) == 3
        and isinstance(layer[0], str)
        and _whole(layer[2])
        and _whole(layer[1], layer[2])
        for layer in value
    )


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _digests(value: Any) -> bool:
    """Whether digests belong to files that lie beside the result."""
    return isinstance(value, dict) and all(
        isinstance(digest, str) and Path(name).name == name for name, digest in value.items()
    )


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


FITS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("seed", "kept", "total", "parameters", "steps"), _whole),
    "round": lambda value: _whole(value, MOST),
    **dict.fromkeys(("live_inputs", "inputs", "early_stop_step"), _or_none(_whole)),
    **dict.fromkeys(
        ("val_acc", "test_acc", "start_acc", "pruned_acc", "epochs"), _or_none(_number)
    ),
    # deep networks have more paths than any other number here
    "live_paths": _or_none(lambda value: type(value) is float or _whole(value)),
    "seconds": lambda value: _number(value) and 0 <= value <= 1e12,
    **dict.fromkeys(("start", "pruned", "early_stop", "end", "test"), _metrics),
    "layers": _layers,
    "dead": _names,
    "made_by": lambda value: isinstance(value, dict),
    "branch": _or_none(lambda value: isinstance(value, str)),
    "files": _digests,
}


def must_be_sound(content: dict[str, Any]) -> None:
    """Refuse fields of a result that no round could have measured.

    Args:
        content: The fields by name.

    Raises:
        ValueError: If one is of another kind or size.
    """
    for name, fits in FITS.items():
        if name in content and not fits(content[name]):
            raise ValueError(f"{name} is {str(content[name])[:60]!r}")
    kept, total, parameters = (content.get(name, 0) for name in ("kept", "total", "parameters"))
    if not kept <= total <= parameters or not parameters:
        raise ValueError(f"{kept} of {total} weights are kept, among {parameters} parameters")
    if content.get("live_inputs") is not None and content.get("inputs") is None:
        raise ValueError("live_inputs is given without inputs")
