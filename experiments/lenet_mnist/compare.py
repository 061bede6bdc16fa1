"""Tickets against the dense network and against their reinitialised twins, paired by seed.

    python experiments/lenet_mnist/compare.py runs/lenet_mnist_imp

Reads `summary.csv` of a run and of its branch `reinit`; prints mean, sample standard deviation, a
95 % interval of the mean (Student's t), and each seed.
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path

T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}

Rows = dict[tuple[int, int], dict[str, str]]


def read(path: Path) -> Rows:
    with path.open(newline="") as file:
        return {(int(row["seed"]), int(row["round"])): row for row in csv.DictReader(file)}


def told(name: str, values: list[float]) -> str:
    if len(values) < 2:
        return f"{name}: {values}"
    mean, std = statistics.mean(values), statistics.stdev(values)
    half = T95[len(values)] * std / len(values) ** 0.5
    each = ", ".join(f"{value:+.2f}" for value in values)
    interval = f"{mean - half:+.2f} to {mean + half:+.2f}"
    return f"{name}: {mean:+.2f} ± {std:.2f}, interval {interval} ({each})"


def points(row: dict[str, str]) -> float:
    return 100 * float(row["test_acc"])


def step(row: dict[str, str]) -> float:
    return float(row["early_stop_step"])


def main(folder: Path) -> None:
    tickets, reinit = read(folder / "summary.csv"), read(folder / "branches/reinit/summary.csv")
    for level in sorted({level for _, level in reinit}):
        seeds = [seed for seed, at in reinit if at == level]
        density = float(tickets[seeds[0], level]["density"])
        print(f"round {level}, {100 * density:.1f} % of the weights, n = {len(seeds)}")
        for name, other in (
            ("dense", {seed: tickets[seed, 0] for seed in seeds}),
            ("reinit", {seed: reinit[seed, level] for seed in seeds}),
        ):
            ours = {seed: tickets[seed, level] for seed in seeds}
            accuracy = [points(ours[s]) - points(other[s]) for s in seeds]
            speed = [step(other[s]) / step(ours[s]) for s in seeds]
            print("  " + told(f"test accuracy, ticket - {name}, points", accuracy))
            print("  " + told(f"early-stop step, {name} / ticket", speed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
