"""torch's square root on the CPU, of zeros against others: what Adam pays for zero moments.

python -m experiments.speed.roots
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from experiments.speed.ratios import Spread
from experiments.speed.turns import rounds

SIZE = 784 * 300
COUNT = 15


def measure() -> dict[str, Any]:
    """Return time with 80 % zeros over time with none, for as many as LeNet's first matrix."""
    dense = torch.rand(SIZE) + 0.1
    sparse = dense * (torch.rand(SIZE) < 0.2)
    times = rounds(lambda: {"dense": _time(dense), "sparse": _time(sparse)}, COUNT)
    return {
        "zeros_over_none": Spread.of_ratios(times["sparse"], times["dense"]).json(),
        "disturbed": round(max(times["disturbed"]), 3),
    }


def _time(values: Tensor, repeats: int = 200) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        values.sqrt()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(measure())
