"""Test accuracy of a run and of its branches, by density, as a Markdown table.

    python experiments/cora/table.py runs/gcn_cora_h64 runs/gcn_cora_h16

Reads `summary.csv` of each run and of its branches: mean ± sample standard deviation over seeds.
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path

LINES = ("one_shot", "reinit", "shuffled_mask", "random_mask")

Cells = dict[int, list[dict[str, str]]]


def read(path: Path) -> Cells:
    """Rows by round."""
    found: Cells = {}
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(int(row["round"]), []).append(row)
    return found


def told(rows: list[dict[str, str]] | None) -> str:
    if not rows:
        return ""
    values = [100 * float(row["test_acc"]) for row in rows]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def main(folder: Path) -> None:
    tickets = read(folder / "summary.csv")
    branches = {name: read(folder / "branches" / name / "summary.csv") for name in LINES}
    print(f"{folder.name}, n = {len(tickets[0])}\n")
    print(f"| pruned, % | weights left | ticket | {' | '.join(LINES)} |")
    print("| ---: " * (3 + len(LINES)) + "|")
    for level, rows in sorted(tickets.items()):
        pruned = 100 * (1 - float(rows[0]["density"]))
        cells = [told(rows), *(told(branches[name].get(level)) for name in LINES)]
        print(f"| {pruned:.2f} | {int(rows[0]['weights_left']):,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name))
        print()
