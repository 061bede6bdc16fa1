"""Rounds of interleaved measurements, taken while nothing else uses the processor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

QUIET = 0.05
TRIES = 2
LONGEST_WAIT = 10.0


def rounds(measure: Callable[[], dict[str, float]], count: int) -> dict[str, list[float]]:
    """Return the times of `count` rounds by name, after one more round to warm up.

    A round in which other processes took over 5 % of the processor is measured again, at most twice
    as often as asked; what is returned are the rounds least disturbed. The choice looks at
    others' processor time alone, never at what was measured.

    Args:
        measure: Measures each variant once, in turn.
        count: How many rounds.
    """
    measure()
    found: list[tuple[float, dict[str, float]]] = []
    while len(found) < TRIES * count and sum(share <= QUIET for share, _ in found) < count:
        _wait_for_quiet()
        before = _busy()
        times = measure()
        found.append((_share(before, _busy()), times))
    least = sorted(found, key=lambda each: each[0])[:count]
    return {name: [times[name] for _, times in least] for name in least[0][1]} | {
        "disturbed": [share for share, _ in least]
    }


def _wait_for_quiet() -> None:
    end = time.perf_counter() + LONGEST_WAIT
    while time.perf_counter() < end:
        before = _busy()
        time.sleep(0.5)
        if _share(before, _busy()) <= QUIET:
            return


def _busy() -> tuple[float, float, float]:
    """Return seconds on the clock, of all processors by anyone, and of this process."""
    ticks = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    busy = sum(ticks) - ticks[3] - ticks[4]
    return time.perf_counter(), busy / os.sysconf("SC_CLK_TCK"), time.process_time()


def _share(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """Return what share of the processor others took, to a hundredth of a second or two."""
    passed, busy, own = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, busy - own - 0.02) / (passed * (os.cpu_count() or 1))
