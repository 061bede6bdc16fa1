"""What networks may be asked for; one line for whatever they may not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

LARGEST = 10**8  # of widths; more overflow the sizes of tensors
LARGEST_NUMBER = 1e30  # more overflow float32 when they are multiplied
Choice = TypeVar("Choice", str, int)


def one_of(option: str, given: Choice, known: Iterable[Choice]) -> Choice:
    """Return what was given if it is known.

    Args:
        option: The option's name, for the message.
        given: What was given.
        known: What it may be.

    Raises:
        ValueError: If it is unknown.

    Example:
        >>> one_of("block", "bottelneck", ["basic", "bottleneck"])
        Traceback (most recent call last):
        ValueError: block='bottelneck': basic, bottleneck are known. Did you mean 'bottleneck'?
    """
    known = list(known)
    if isinstance(given, (str, int)) and given in known and not isinstance(given, bool):
        return given
    spelled = {str(choice).lower(): choice for choice in known}
    near = difflib.get_close_matches(str(given).lower(), spelled, n=1)
    hint = f" Did you mean {spelled[near[0]]!r}?" if near and isinstance(given, str) else ""
    raise ValueError(f"{option}={shown(given)}: {', '.join(map(str, known))} are known.{hint}")


def instance(option: str, given: object, kinds: Any, wanted: str) -> None:
    """Refuse what is of another type.

    Args:
        option: The option's name, for the message.
        given: What was given.
        kinds: What it may be.
        wanted: The same in words.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(given, kinds):
        raise ValueError(f"{option}={shown(given)}: {wanted} is wanted.")


def whole(option: str, given: int, least: int = 1, most: int = LARGEST) -> int:
    """Return what was given if it is a whole number, and large enough.

    Args:
        option: The option's name, for the message.
        given: What was given.
        least: The smallest allowed number.
        most: The largest.

    Raises:
        ValueError: If it is no whole number, smaller or larger.
    """
    if not isinstance(given, int) or isinstance(given, bool) or not least <= given <= most:
        bound = f"at least {least}" if most == LARGEST else f"{least} to {most:,}"
        raise ValueError(f"{option}={shown(given)}: a whole number is wanted, {bound}.")
    return given


def above_zero(option: str, given: float, wanted: str = "a number above 0") -> float:
    """Return what was given if it is a finite number above 0.

    Args:
        option: The option's name, for the message.
        given: What was given.
        wanted: What it may be, for the message.

    Raises:
        ValueError: If it is no number, not above 0, or not finite.
    """
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not number or not 0 < given <= LARGEST_NUMBER:
        most = ", at most 1e30," if number and given > LARGEST_NUMBER else ""
        raise ValueError(f"{option}={shown(given)}: {wanted}{most} is wanted.")
    return given


def below_one(option: str, given: float) -> float:
    """Return what was given if it is a share that leaves something over.

    Args:
        option: The option's name, for the message.
        given: What was given.

    Raises:
        ValueError: If it is no number from 0 up to, but not including, 1.
    """
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not number or not 0 <= given < 1:
        raise ValueError(f"{option}={shown(given)}: a number is wanted, 0 <= {option} < 1.")
    return given


def blocks(depth: int, layers: int, others: int, usual: str) -> int:
    """Return how many blocks each stage of a network of this depth has.

    Args:
        depth: The number of layers with weights, shortcuts aside.
        layers: How many of them one block in every stage adds.
        others: How many stand outside of the stages.
        usual: Depths that fit, for the message.

    Raises:
        ValueError: If the depth does not fit.

    Example:
        >>> blocks(20, layers=6, others=2, usual="20 or 32")
        3
    """
    if isinstance(depth, int) and others < depth < 2_000 and (depth - others) % layers == 0:
        return (depth - others) // layers
    raise ValueError(f"depth={shown(depth)}: {layers}n + {others} is wanted, such as {usual}.")


def widened(width: float, *channels: int) -> list[int]:
    """Return numbers of channels times a width, rounded, at least 1 each.

    Args:
        width: The factor.
        *channels: The numbers of channels at width 1.

    Raises:
        ValueError: If the factor is not above 0.

    Example:
        >>> widened(0.25, 16, 32, 64)
        [4, 8, 16]
    """
    if above_zero("width", width) * max(channels) > LARGEST:
        raise ValueError(f"width={shown(width)}: {max(channels)} times it is above {LARGEST:,}.")
    return [max(1, round(number * width)) for number in channels]


def shown(value: object, most: int = 80) -> str:
    """Return a value as it is written, in one line that is not too long."""
    line = " ".join(repr(value).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
