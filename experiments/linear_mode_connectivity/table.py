"""Instability of every `reorder` branch of runs, by round, as a Markdown table.

    python experiments/linear_mode_connectivity/table.py runs/lenet_connectivity

Reads the `path.csv` of each round and the `summary.csv` of its branch: points of error by which the
path rises above the mean of its ends, mean (least to most) over seeds.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from ltpl.tickets.path import FILE, instability, read_path

COLUMNS = ("val", "train", "raw_val", "raw_train")


def densities(branch: Path) -> dict[int, float]:
    """Share of the weights left, by round."""
    with (branch / "summary.csv").open(newline="") as file:
        return {int(row["round"]): float(row["density"]) for row in csv.DictReader(file)}


def told(values: list[float | None]) -> str:
    found = [100 * value for value in values if value is not None]
    if not found:
        return ""
    return f"{sum(found) / len(found):.1f} ({min(found):.1f} to {max(found):.1f})"


def main(run: Path) -> None:
    print(f"{run.name}\n\n| branch | weights left, % | seeds | {' | '.join(COLUMNS)} |")
    print("| --- " + "| ---: " * (2 + len(COLUMNS)) + "|")
    for branch in sorted((run / "branches").iterdir()):
        rounds: dict[int, list[dict[str, float | None]]] = {}
        for path in sorted(branch.glob(f"seed_*/round_*/{FILE}")):
            level = int(path.parent.name.removeprefix("round_"))
            rounds.setdefault(level, []).append(instability(read_path(path.parent)))
        left = densities(branch) if rounds else {}
        for level, found in sorted(rounds.items()):
            cells = [told([one[name] for one in found]) for name in COLUMNS]
            print(
                f"| {branch.name} | {100 * left[level]:.1f} | {len(found)} | {' | '.join(cells)} |"
            )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name))
        print()
