"""All speed measurements: prints the tables of the README and writes each part into the JSON.

python -m experiments.speed
python -m experiments.speed --output other.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch

from experiments.speed import feeding, graph, memory, pruning, roots, step


def machine() -> dict[str, str | int]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_lightning": pytorch_lightning.__version__,
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def measure_pruning() -> list[dict[str, Any]]:
    found = [pruning.measure(size, pruning.REPEATS) for size in pruning.SIZES]
    print(table(pruning.HEAD, [each.row() for each in found]), end="\n\n", flush=True)
    return [each.json() for each in found]


def measure_memory() -> dict[str, Any]:
    peak = memory.measure(max(pruning.SIZES))
    print(table(memory.HEAD, [peak.row()]), end="\n\n", flush=True)
    return peak.json()


def measure_roots() -> dict[str, Any]:
    found = roots.measure()
    print(f"square root of 80 % zeros over none: {found}", end="\n\n", flush=True)
    return found


def measure_steps() -> list[dict[str, Any]]:
    found = [step.measure(name) for name in step.TASKS]
    print(table(step.HEAD, [each.row() for each in found]), flush=True)
    return [each.json() for each in found]


def measure_feeding() -> list[dict[str, Any]]:
    found = feeding.measure()
    print(table(feeding.HEAD, [each.row() for each in found]), flush=True)
    return [each.json() for each in found]


def measure_graph() -> list[dict[str, Any]]:
    found = [graph.measure(hidden) for hidden in (16, 64)]
    print(table(graph.HEAD, map(graph.row, found)), end="\n\n", flush=True)
    return found


PARTS: dict[str, Callable[[], Any]] = {
    "pruning": measure_pruning,
    "memory": measure_memory,
    "roots": measure_roots,
    "step": measure_steps,
    "feeding": measure_feeding,
    "graph": measure_graph,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    output = options.output
    results = json.loads(output.read_text()) if output.exists() else {}
    for part in options.parts:
        results[part] = {"machine": machine(), "results": PARTS[part]()}
        output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
