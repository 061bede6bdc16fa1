"""One line for a wrong name: what was given, what is allowed, what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    return ValueError(f"{option}={given!r} is not known{hint} Allowed: {', '.join(allowed)}.")
