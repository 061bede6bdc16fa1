"""The straight path between two trained networks, and what was measured along it.

Frankle et al. (2020), Linear mode connectivity and the lottery ticket hypothesis, section 2: two
copies of a network are trained with other orders of the data; where no network between them makes
more errors than they do, training is stable to that noise.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from ltpl.masks.errors import check_least, checked
from ltpl.masks.files import whole_file
from ltpl.tickets.fields import MOST
from ltpl.tickets.snapshot import Snapshot

FILE = "path.csv"


@dataclass(frozen=True)
class Point:
    """Errors and losses of one network on the path; None where there is none.

    With BatchNorm, its statistics are estimated again at every point; `raw` is with statistics that
    lie between those of both ends, as the weights do.

    Args:
        alpha: Where it lies: 0 is the first end, 1 the second.
        train_error: 1 - accuracy on training data.
        train_loss: Loss there.
        val_error: 1 - accuracy on validation data.
        val_loss: Loss there.
        raw_train_error: As above, raw.
        raw_train_loss: As above, raw.
        raw_val_error: As above, raw.
        raw_val_loss: As above, raw.
    """

    alpha: float
    train_error: float | None = None
    train_loss: float | None = None
    val_error: float | None = None
    val_loss: float | None = None
    raw_train_error: float | None = None
    raw_train_loss: float | None = None
    raw_val_error: float | None = None
    raw_val_loss: float | None = None


COLUMNS = [field.name for field in fields(Point)]


@checked
def evenly(points: int) -> list[float]:
    """Return as many places from 0 to 1, both included.

    Raises:
        ValueError: If there are fewer than the two ends.

    Example:
        >>> evenly(3)
        [0.0, 0.5, 1.0]
    """
    check_least("points", points, 2)
    return [place / (points - 1) for place in range(points)]


def interpolated(
    first: Snapshot, second: Snapshot, alpha: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weights and buffers of the network between two: `(1 - alpha) first + alpha second`.

    At 0 and 1 they are those of the ends, to the bit. What is pruned in both stays zero. Buffers
    that count or choose are those of the nearer end.

    Args:
        first: The network at 0.
        second: The network at 1.
        alpha: Where between them.

    Raises:
        ValueError: If the two differ in names, shapes or dtypes.
    """
    _must_match(first.weights, second.weights)
    _must_match(first.buffers, second.buffers)
    return (
        {n: _between(first.weights[n], second.weights[n], alpha) for n in first.weights},
        {n: _between(first.buffers[n], second.buffers[n], alpha) for n in first.buffers},
    )


def _must_match(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name in [*first, *second]:
        said = [_described(tensors.get(name)) for tensors in (first, second)]
        if said[0] != said[1]:
            raise ValueError(
                f"There is no path between these networks: {name!r} is {said[0]} in the first and "
                f"{said[1]} in the second."
            )


def _described(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{list(tensor.shape)} of {tensor.dtype}"


def _between(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    if first.is_floating_point() or first.is_complex():
        return torch.lerp(first, second, alpha)
    return (first if alpha <= 0.5 else second).clone()


def write_path(folder: str | Path, points: Sequence[Point]) -> None:
    """Write `path.csv` into the folder of a round, whole or not at all."""
    with whole_file(Path(folder, FILE)) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(point) for point in points)


def read_path(folder: str | Path) -> list[Point]:
    """Read what `write_path` wrote into a folder.

    Raises:
        FileNotFoundError: If no path was measured there.
        ValueError: If the file is something else.
    """
    path = Path(folder, FILE)
    try:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        if header != COLUMNS or not 2 <= len(rows) <= MOST:
            raise ValueError
        points = [Point(*map(_number, row)) for row in rows]  # type: ignore[arg-type]
        if any(not 0 <= point.alpha <= 1 for point in points):
            raise ValueError
    except (ValueError, TypeError, csv.Error):
        raise ValueError(f"{path} is no path between two networks.") from None
    return points


def _number(text: str) -> float | None:
    value = float(text) if text else None
    if value is not None and math.isfinite(value) and abs(value) > 1e100:  # nothing can draw it
        raise ValueError
    return value


def rise(errors: Mapping[float, float]) -> float:
    """Return the largest error along a path, minus the mean of those at its ends: its instability.

    Below two points Frankle et al. call a network stable.

    Args:
        errors: By place; the least and the largest place are the ends.

    Example:
        >>> rise({0.0: 2.0, 0.5: 10.0, 1.0: 4.0})
        7.0
    """
    return max(errors.values()) - (errors[min(errors)] + errors[max(errors)]) / 2
