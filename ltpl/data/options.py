"""What an option of a data module may be; a wrong value is said in one line."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

LARGEST_SEED = 2**32 - 1  # that of seed_everything; torch's CPU generator takes no more bits


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return a whole number of an allowed size.

    Args:
        name: The option's name, for the message.
        value: What was given.
        least: The smallest allowed number.
        most: The largest allowed number; no limit if not given.

    Raises:
        ValueError: If it is no whole number, or out of range.
    """
    fits = isinstance(value, int) and not isinstance(value, bool)
    if not fits or value < least or (most is not None and value > most):  # type: ignore[operator]
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name}={shown(value)}: a whole number is wanted, {allowed}.")
    return value  # type: ignore[return-value]


def share(
    name: str,
    value: object,
    least: float = 0.0,
    open_below: bool = False,
    open_above: bool = False,
) -> float:
    """Return a share, at most 1.

    Args:
        name: The option's name, for the message.
        value: What was given.
        least: The smallest allowed share.
        open_below: Whether the smallest share itself is not allowed.
        open_above: Whether all, which is 1, is not allowed.

    Raises:
        ValueError: If it is no number, or out of range.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    bounds = [least] * open_below + [1.0] * open_above
    if not number or not least <= value <= 1 or value in bounds:  # type: ignore[operator]
        lower = f"above {least:g}" if open_below else f"from {least:g}"
        upper = "to below 1" if open_above else "to 1"
        raise ValueError(f"{name}={shown(value)}: a share {lower} {upper} is wanted.")
    return float(value)  # type: ignore[arg-type]


def channelwise(
    name: str, value: object, above: float = -math.inf, channels: int | None = None
) -> float | Sequence[float]:
    """Return a number, or one for each colour channel.

    Args:
        name: The option's name, for the message.
        value: What was given.
        above: What each number must be larger than.
        channels: How many channels there are; any number of them if not given.

    Raises:
        ValueError: If it is neither, or a number is too small or not finite.
    """
    each: Sequence[Any] = value if isinstance(value, Sequence) else [value]
    counts = (1, channels) if channels else range(1, len(each) + 1)
    numbers = all(isinstance(x, Real) and not isinstance(x, bool) for x in each)
    if len(each) not in counts or not numbers or not all(above < x < math.inf for x in each):
        bound = "" if above == -math.inf else f" above {above:g}"
        several = "one" if channels is None else f"{channels} of them, one"
        raise ValueError(
            f"{name}={shown(value)}: a number{bound} is wanted, or {several} per channel."
        )
    return value  # type: ignore[return-value]


def choice(name: str, value: object, allowed: Sequence[object]) -> object:
    """Return one of the allowed values.

    Args:
        name: The option's name, for the message.
        value: What was given.
        allowed: What may be given; `True` and 1 are not the same.

    Raises:
        ValueError: If it is none of them.
    """
    if any(type(value) is type(each) and value == each for each in allowed):
        return value
    words = [each for each in allowed if isinstance(each, str)]
    near = difflib.get_close_matches(str(value), words, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    *most, last = (repr(each) for each in allowed)
    raise ValueError(f"{name}={shown(value)}: {', '.join(most)} and {last} are allowed.{hint}")


def shown(value: object, most: int = 80) -> str:
    """Return a value as it is written, in one line that is not too long."""
    line = " ".join(repr(value).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
