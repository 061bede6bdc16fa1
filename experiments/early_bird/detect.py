"""When do the masks come to rest? Early-bird detection on the handwritten digits, by both rules.

    OMP_NUM_THREADS=1 python experiments/early_bird/detect.py experiments/early_bird/results
    python experiments/early_bird/detect.py --draw experiments/early_bird/results   # figures only

ResNet-20 with network slimming, three amounts, three seeds, constant and random scaling factors at
initialisation. Writes `distances.csv` (a row for each epoch), `pairs.csv` (each pair of epochs of
one run), `found.csv` and two figures; prints the table of the README.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytorch_lightning as pl
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import PowerNorm

from ltpl.callbacks import EarlyBird, NetworkSlimming
from ltpl.data import Digits
from ltpl.models import ResNet
from ltpl.modules import ImageClassifier
from ltpl.report.looks import COLOURS, DASHES, STYLE

AMOUNTS = [0.3, 0.5, 0.7]
GAMMAS = (0.5, "uniform")
RULES = ("paper", "window")
SEEDS = (0, 1, 2)
EPOCHS = 40
EPS = 0.1

Row = dict[str, Any]


def run(gamma: float | str, seed: int) -> dict[str, EarlyBird]:
    """Train once; both rules watch the same masks."""
    pl.seed_everything(seed, verbose=False)
    network = ResNet(depth=20, inputs=1, gamma=gamma)
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[20, 30])
    birds = {rule: EarlyBird(AMOUNTS, EPS, rule=rule, action="save", name=rule) for rule in RULES}
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            callbacks=[NetworkSlimming(l1=1e-4, amount=None), *birds.values()],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(ImageClassifier(network, optimizer, schedule), Digits(batch_size=64))
    return birds


def measured(birds: dict[str, EarlyBird]) -> tuple[list[Row], list[Row], list[Row]]:
    """Return a row for each epoch, each pair of epochs and each ticket."""
    curves, pairs, tickets = [], [], []
    for amount in AMOUNTS:
        table, epochs = birds["paper"].distances(amount), birds["paper"].epochs(amount)
        first = epochs.index(1)
        for i, epoch in enumerate(epochs):
            row = {"amount": amount, "epoch": epoch}
            if i > first:
                row["to_previous"] = round(float(table[i, i - 1]), 5)
            row["to_last"] = round(float(table[i, -1]), 5)
            row["to_init"] = round(float(table[i, 0]), 5) if first else ""
            curves.append(row)
            others = enumerate(epochs[:i])
            pairs += [
                {
                    "amount": amount,
                    "epoch": epoch,
                    "other": o,
                    "distance": round(float(table[i, j]), 5),
                }
                for j, o in others
            ]
        for rule, bird in birds.items():
            found = bird.found[amount]
            place = epochs.index(found) if found else -1
            tickets.append(
                {
                    "amount": amount,
                    "rule": rule,
                    "found": found or "",
                    "to_last": round(float(table[place, -1]), 5),
                    "to_init": round(float(table[place, 0]), 5) if first else "",
                    "init_to_last": round(float(table[0, -1]), 5) if first else "",
                }
            )
    return curves, pairs, tickets


def measure(folder: Path) -> None:
    """Run everything and write the rows."""
    every: dict[str, list[Row]] = {"distances": [], "pairs": [], "found": []}
    for gamma in GAMMAS:
        for seed in SEEDS:
            begun = time.perf_counter()
            curves, pairs, tickets = measured(run(gamma, seed))
            print(f"gamma={gamma} seed={seed}: {time.perf_counter() - begun:.0f} s", flush=True)
            for name, rows in zip(every, (curves, pairs, tickets), strict=True):
                if name != "pairs" or seed == SEEDS[0]:
                    every[name] += [{"gamma": gamma, "seed": seed, **row} for row in rows]
    for name, rows in every.items():
        write(folder / f"{name}.csv", rows)


def write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path, **wanted: Any) -> list[Row]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if all(row[k] == str(v) for k, v in wanted.items())]


def spread(values: Iterable[str]) -> str:
    numbers = [float(value) for value in values if value != ""]
    if not numbers:
        return "-"
    digits = 1 if max(numbers) > 1 else 3
    std = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return f"{statistics.mean(numbers):.{digits}f} ± {std:.{digits}f}"


def table(folder: Path) -> None:
    """Print the table of the README."""
    print("| gamma | amount | rule | found after, each seed | mean | to the last mask | to init |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for gamma in GAMMAS:
        for amount in AMOUNTS:
            for rule in RULES:
                rows = read(folder / "found.csv", gamma=gamma, amount=amount, rule=rule)
                each = ", ".join(row["found"] or "never" for row in rows)
                columns = [spread(row[n] for row in rows) for n in ("found", "to_last", "to_init")]
                print(f"| {gamma} | {amount} | {rule} | {each} | {' | '.join(columns)} |")


def draw_curves(folder: Path) -> None:
    """Distance to the mask of the epoch before, each seed; a dot where it is found (paper)."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, gamma in zip(axes, GAMMAS, strict=True):
        for amount, colour, dashes in zip(AMOUNTS, COLOURS, DASHES, strict=False):
            for seed in SEEDS:
                of = {"gamma": gamma, "seed": seed, "amount": amount}
                rows = read(folder / "distances.csv", **of)
                points = {
                    int(r["epoch"]): float(r["to_previous"]) for r in rows if r["to_previous"]
                }
                label = f"{amount} pruned" if seed == SEEDS[0] else None
                line = {"color": colour, "linestyle": dashes, "linewidth": 1.1, "label": label}
                axis.plot(points.keys(), points.values(), **line)
                (ticket,) = read(folder / "found.csv", rule="paper", **of)
                if ticket["found"]:
                    found = int(ticket["found"])
                    axis.plot(found, points[found], "o", color=colour, markersize=5)
        axis.axhline(EPS, color="#1f2328", linewidth=0.8)
        axis.annotate("eps", (EPOCHS, EPS), xytext=(0, 3), textcoords="offset points", ha="right")
        axis.set(
            title=f"gamma = {gamma} at initialisation", xlabel="epochs trained", ylim=(0, None)
        )
    axes[0].set_ylabel("distance to the mask\nof the epoch before")
    axes[0].legend(title="dot: found, rule of the paper")
    figure.savefig(folder / "curves.png", dpi=130)
    plt.close(figure)


def draw_pairs(folder: Path) -> None:
    """Distances of each mask to each, of one seed."""
    shape = len(GAMMAS), len(AMOUNTS)
    figure, axes = plt.subplots(*shape, figsize=(9, 5.8), layout="constrained")
    for row, gamma in zip(axes, GAMMAS, strict=True):
        for axis, amount in zip(row, AMOUNTS, strict=True):
            of = {"gamma": gamma, "seed": SEEDS[0], "amount": amount}
            rows = read(folder / "pairs.csv", **of)
            first = min(int(r["other"]) for r in rows)
            values = torch.zeros(EPOCHS + 1 - first, EPOCHS + 1 - first)
            for r in rows:
                i, j = int(r["epoch"]) - first, int(r["other"]) - first
                values[i, j] = values[j, i] = float(r["distance"])
            edges = (first - 0.5, EPOCHS + 0.5, EPOCHS + 0.5, first - 0.5)
            near_to_far = PowerNorm(0.5, vmin=0, vmax=0.5)  # 0.5: random masks of amount 0.5
            image = axis.imshow(values, cmap="viridis_r", norm=near_to_far, extent=edges)
            for rule, mark in zip(RULES, ("o", "x"), strict=True):
                (ticket,) = read(folder / "found.csv", rule=rule, **of)
                if ticket["found"]:
                    found = int(ticket["found"])
                    look = {"color": "crimson", "markerfacecolor": "none", "markersize": 7}
                    axis.plot(found, found, mark, label=f"found, {rule}", **look)
            axis.set(title=f"gamma = {gamma}, {amount} pruned", xlabel="epoch", ylabel="epoch")
            axis.grid(False)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of bits that differ")
    axes[0, 0].legend(loc="lower left", facecolor="white", frameon=True)
    figure.savefig(folder / "pairs.png", dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="Where rows and figures go.")
    parser.add_argument("--draw", action="store_true", help="Read the rows instead of training.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.draw:
        measure(options.folder)
    mpl.use("agg")
    with mpl.rc_context(STYLE):
        draw_curves(options.folder)
        draw_pairs(options.folder)
    table(options.folder)


if __name__ == "__main__":
    main()
