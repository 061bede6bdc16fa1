"""Run trees with random numbers in them, without any training."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltpl.tickets.result import Result, round_folder

SIZES = {"net.fc1.weight": 6000, "net.fc2.weight": 3000, "net.out.weight": 1000}
BIASES = 300


def result(seed: int, level: int, rng: random.Random, **given: Any) -> Result:
    layers = [(name, max(1, round(n * 0.8**level)), n) for name, n in SIZES.items()]
    accuracy = rng.uniform(0.9, 0.95)
    values: dict[str, Any] = {
        "kept": sum(kept for _, kept, _ in layers),
        "total": sum(SIZES.values()),
        "parameters": sum(SIZES.values()) + BIASES,
        "layers": layers,
        "start": {"val/loss": rng.random(), "val/acc": rng.uniform(0.1, 0.9)},
        "early_stop": {"val/loss": rng.random(), "val/acc": accuracy},
        "early_stop_step": rng.randrange(100, 5000),
        "test": {"test/loss": rng.random(), "test/acc": accuracy},
        "val_acc": rng.uniform(0.9, 0.95),
        "test_acc": accuracy,
        "seconds": rng.uniform(1, 2000),
        "made_by": {"policy": "rewind" if level else "dense", "rewind": "0ep"},
    }
    return Result(seed=seed, round=level, **{**values, **given})


def without_accuracy(rng: random.Random) -> dict[str, Any]:
    return {
        "test": {"test/mae": rng.random(), "test/loss": rng.uniform(0.1, 0.9)},
        "early_stop": {"val/loss": rng.uniform(0.1, 0.9)},
        "start": {"val/loss": rng.uniform(1, 2)},
        "test_acc": None,
        "val_acc": None,
    }


def save(folder: Path, results: Sequence[Result]) -> None:
    for each in results:
        each.save(round_folder(folder, each.seed, each.round) / "result.json")


def begin(folder: Path, **record: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"format": "ltpl.run/1", **record}))
    return folder


def metrics(folder: Path, each: Result, rng: random.Random, steps: Sequence[int]) -> dict[str, Any]:
    """Write a `metrics.csv` and return what it says of validation, by tag and step."""
    lines = ["step,epoch,train/loss,val/loss,val/acc,ticket/density"]
    written: dict[str, Any] = {"val/loss": {}, "val/acc": {}}
    for step in steps:
        loss, accuracy = rng.uniform(0.1, 1), rng.uniform(0.8, 1)
        written["val/loss"][step], written["val/acc"][step] = loss, accuracy
        lines += [f"{step},0,,{loss!r},{accuracy!r},", f"{step},0,{rng.random()},,,0.5"]
    path = round_folder(folder, each.seed, each.round) / "metrics.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return written


def run(folder: Path, seeds: Sequence[int] = (0, 1), levels: int = 4, seed: int = 0) -> Path:
    """Write a run with metrics and a branch `reinit` at two levels."""
    rng = random.Random(seed)
    begin(folder, config={"trainer": {"max_epochs": 3}}, versions={"torch": "2.99"})
    main = [result(s, k, rng) for s in seeds for k in range(levels)]
    save(folder, main)
    for each in main:
        metrics(folder, each, rng, range(0, 1001, 100))
    branch = folder / "branches" / "reinit"
    save(branch, [result(s, k, rng, branch="reinit") for s in seeds for k in (1, levels - 1)])
    (branch / "branch.json").write_text(json.dumps({"kind": "reinit"}))
    return folder
