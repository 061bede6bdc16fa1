"""One line for a wrong name or value: what was given, what is allowed, what was probably meant."""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

P = ParamSpec("P")
R = TypeVar("R")

LARGEST_SEED = 2**32 - 1  # that of NumPy; the CPU generator of torch takes no more bits

LARGEST_FACTOR = 1e30  # products with weights stay finite in float32


def unknown(option: str, given: object, allowed: Iterable[str]) -> ValueError:
    """Return the error for a name that is not one of `allowed`, with a did-you-mean.

    Args:
        option: What the user set, as it is spelled in the call.
        given: What it was set to.
        allowed: Every value that would be right.

    Example:
        >>> str(unknown("scope", "globl", ["global", "layer"]))
        "scope='globl' is not known; did you mean 'global'? Allowed: global, layer."
    """
    allowed = list(allowed)
    close = difflib.get_close_matches(str(given), allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return ValueError(f"{option}={shown(given)} is not known{hint} Allowed: {', '.join(allowed)}.")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function refuse, by name, arguments of other types than its annotations say.

    Example:
        >>> @checked
        ... def prune(amount: float): ...
        >>> prune("0.5")
        Traceback (most recent call last):
        ValueError: amount='0.5': float is wanted.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def refusing(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # something is missing or unknown: Python says what
            given = {}
        check_types(function, given)
        return function(*args, **kwargs)

    return refusing


def check_types(owner: Callable[..., object], given: Mapping[str, object]) -> None:
    """Refuse values of other types than annotations say; an int is a float, a bool is neither.

    Args:
        owner: The function or dataclass with the annotations.
        given: The values, by the names of its parameters; what has no annotation may be anything.

    Raises:
        ValueError: If a value is of another type.
    """
    wanted = _hints(owner)
    for name, value in given.items():
        if name in wanted and not _fits(value, wanted[name]):
            said = getattr(owner, "__annotations__", {}).get(name, wanted[name])
            raise ValueError(f"{name}={shown(value)}: {said} is wanted.")


def check_seed(name: str, seed: int) -> int:
    """Return a seed that every generator takes.

    Raises:
        ValueError: If it is negative or has more than 32 bits.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"{name}={shown(seed)}: a whole number from 0 to 2**32 - 1 is wanted.")
    return seed


def check_least(name: str, number: int, least: int) -> int:
    """Return a number that is large enough.

    Raises:
        ValueError: If it is smaller.
    """
    if number < least:
        raise ValueError(f"{name}={shown(number)}: at least {least}.")
    return number


def check_folder_name(option: str, name: str) -> str:
    """Return a name that a folder can have.

    Raises:
        ValueError: If it has a slash or a leading dot, or is empty or very long.
    """
    if not name or "/" in name or name.startswith(".") or len(name.encode()) > 100:
        raise ValueError(
            f"{option}={shown(name)}: it names a folder; no slash, no leading dot, not too long."
        )
    return name


def told_by_torch(error: Exception) -> str:
    """Return the first line of what torch says of a file, without its advice to trust the file."""
    line = str(error).strip().split("\n")[0] or type(error).__name__
    return "it holds more than tensors" if "weights_only" in line else line


def shown(value: object, most: int = 80) -> str:
    """Return a value as it is written, in one line that is not too long."""
    line = " ".join(repr(value).split())
    if line.startswith("<"):  # an object with no words of its own
        return type(value).__name__
    return line if len(line) <= most else f"{line[: most - 3]}..."


@functools.cache
def _hints(owner: Callable[..., object]) -> dict[str, Any]:
    return get_type_hints(owner)


def _fits(value: object, wanted: Any) -> bool:
    kind, inside = get_origin(wanted), get_args(wanted)
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in inside)
    if kind is Literal:
        return value in inside
    if wanted in (int, float):
        finite = not isinstance(value, int) or wanted is int or abs(value) <= sys.float_info.max
        return isinstance(value, (int, wanted)) and not isinstance(value, bool) and finite
    if wanted is Any or not isinstance(kind or wanted, type):
        return True
    if wanted is str:
        return (
            isinstance(value, str) and "\0" not in value
        )  # no file, and nothing else, is so named
    if kind is Iterable:
        return _iterable(value)
    if kind in (list, Sequence):  # a tuple or a range does as well
        whole = isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))
        return whole and _all(value, inside[0])
    if kind and issubclass(kind, Mapping):
        if not isinstance(value, Mapping):
            return False
        return _all(value, inside[0]) and _all(value.values(), inside[1])
    return isinstance(value, kind or wanted)


def _all(values: Any, wanted: Any) -> bool:
    return all(_fits(each, wanted) for each in values)


def _iterable(value: Any) -> bool:
    try:  # a tensor of one number says that it is, and is not
        iter(value)
    except TypeError:
        return False
    return True
