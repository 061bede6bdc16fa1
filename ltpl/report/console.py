"""What is printed: words of a stranger's files cannot steer a terminal."""

from __future__ import annotations

import re

STEERS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain(text: str) -> str:
    r"""Return text in which what would steer a terminal is spelled out.

    Example:
        >>> print(plain("\x1b[31mred"))
        \x1b[31mred
    """
    return STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
