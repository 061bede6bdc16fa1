"""Rounds with a teacher against the same rounds without, paired by seed.

    python experiments/distillation/compare.py runs/gcn_cora_h64

Reads `summary.csv` of a run and of its branches whose name begins with `kd`: mean ± sample standard
deviation of the test accuracy, of the differences, and a 95 % interval of their mean (Student's t).
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path

T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


def read(path: Path) -> dict[tuple[int, int], dict[str, str]]:
    with path.open(newline="") as file:
        return {(int(row["round"]), int(row["seed"])): row for row in csv.DictReader(file)}


def points(row: dict[str, str]) -> float:
    return 100 * float(row["test_acc"])


def spread(values: list[float], sign: str = "") -> str:
    return f"{statistics.mean(values):{sign}.2f} ± {statistics.stdev(values):.2f}"


def interval(values: list[float]) -> str:
    mean = statistics.mean(values)
    half = T95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean - half:+.2f} to {mean + half:+.2f}"


def main(folder: Path) -> None:
    plain = read(folder / "summary.csv")
    print(f"{folder.name}\n")
    print("| teacher | pruned, % | weights left | n | without | with | difference | 95 % of it |")
    print("| :--- " + "| ---: " * 7 + "|")
    for path in sorted((folder / "branches").glob("kd*/summary.csv")):
        taught = read(path)
        for level in sorted({level for level, _ in taught}):
            seeds = [seed for at, seed in taught if at == level]
            ours = [points(taught[level, seed]) for seed in seeds]
            theirs = [points(plain[level, seed]) for seed in seeds]
            gains = [a - b for a, b in zip(ours, theirs, strict=True)]
            row = plain[level, seeds[0]]
            cells = [
                path.parent.name,
                f"{100 * (1 - float(row['density'])):.1f}",
                f"{int(row['weights_left']):,}",
                str(len(seeds)),
                spread(theirs),
                spread(ours),
                spread(gains, "+"),
                interval(gains),
            ]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name))
        print()
