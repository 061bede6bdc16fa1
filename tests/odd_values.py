"""Values that somebody may give an option: wrong types, edges, and right ones.

Paths among them are relative: a test that writes where it is told stays in its own folder.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import nn


class Level(int):
    """A whole number of a class of its own."""


WORDS = [
    *(
        "",
        " ",
        "0",
        "1",
        "0.5",
        "nan",
        "null",
        "true",
        "[1]",
        "{a: 1}",
        "*",
        "[",
        "ä→π",
        "\n",
        "\0",
    ),
    *(".", ".a", "a/b", "0-3", "3-0", "0-999999999999", "2:4", "0:0", "5it", "2ep3it", "a -> b"),
    *("global", "layer", "random", "output", "os.system", "torch.nn.Linear", "a.", "x.y"),
    *("file", "folder", "1" * 30, "word " * 2000),
]
NUMBERS = [
    *(0, 1, 2, 3, 5, 7, -1, 64, 10**9, 2**31, 2**32, 2**63, 10**18, -(10**18), 10**400),
    *(0.0, -0.0, 0.2, 0.5, 1.0, 1 + 1e-9, 1 - 1e-9, -0.1, 1e-300, 1e300, 2.5),
    *(math.nan, math.inf, -math.inf, True, False, Level(1), Level(-1)),
]
OBJECTS = [
    *(None, b"bytes", bytearray(b"x"), 1j, object(), object, print, abs, range(3), ..., {1, 2}),
    *(np.float32(0.5), np.float64(0.5), np.int64(1), np.array([1, 2]), np.eye(2), Fraction(1, 2)),
    *(torch.tensor(1), torch.ones(3, 3), torch.device("cpu"), nn.Linear(2, 2), nn.Linear),
    *(Path("nowhere"), Path("folder"), Path("file")),
]
SINGLE = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(WORDS),
    st.sampled_from(OBJECTS),
    st.text(st.characters(exclude_characters="/~", exclude_categories=["Cs"]), max_size=5),
)
KEYS = st.one_of(st.sampled_from(WORDS), st.integers(-2, 3), st.sampled_from([None, 0.5, b""]))
NESTED = st.recursive(
    SINGLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=2).map(tuple),
        st.dictionaries(KEYS, inner, max_size=2),
    ),
    max_leaves=4,
)
VALUES: st.SearchStrategy[Any] = st.one_of(SINGLE, NESTED, st.integers(-3, 10), st.floats())


def examples(number: int) -> settings:
    """Return settings that give the same examples on every run."""
    return settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
