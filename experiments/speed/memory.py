"""Peak memory that pruning takes beside the weights, each way in a process of its own. Linux only.

python -m experiments.speed.memory
python -m experiments.speed.memory --size 25
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from experiments.speed.pruning import AMOUNT, network, prune_by_torch
from ltpl.masks import prune


@dataclass(frozen=True)
class Memory:
    """Peak bytes beyond what was there, in units of the weights' bytes."""

    weights: int
    ltpl: float
    torch: float

    def row(self) -> tuple[str, ...]:
        return (f"{self.weights / 1e6:.1f} M", f"{self.ltpl:.2f}", f"{self.torch:.2f}")

    def json(self) -> dict[str, Any]:
        return asdict(self)


HEAD = ("weights", "`prune`, peak / weights", "`global_unstructured`, peak / weights")


def prune_by_ltpl(model: nn.Module) -> None:
    prune(model, AMOUNT)


def extra(job: tuple[Callable[[nn.Module], None], float]) -> float:
    """Return how far one pruning lifts the high-water mark, in units of the weights."""
    way, millions = job
    way(network(0.1))  # what torch loads and sets up at first use is not counted
    model = network(millions)
    size = sum(layer.weight.nbytes for layer in model)
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark until here
    before = _kilobytes("VmRSS")
    way(model)
    return round(1024 * (_kilobytes("VmHWM") - before) / size, 3)


def _kilobytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def measure(millions: float) -> Memory:
    """Prune once each way, in fresh processes."""
    found = []
    for way in (prune_by_ltpl, prune_by_torch):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(extra, ((way, millions),)))
    return Memory(sum(layer.weight.numel() for layer in network(millions)), *found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=float, default=100, help="in millions of weights")
    print(measure(parser.parse_args().size))


if __name__ == "__main__":
    main()
