"""`summary/`: accuracy against density in TensorBoard, the mean and each seed in one chart."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from ltpl.tickets.result import Result


def write_events(folder: Path, results: list[Result]) -> None:
    """Write one point a round: the mean over seeds, and each seed as a run beneath it.

    `rounds/...` counts rounds; `pruned_permille/...` has the share that is pruned on its axis,
    because TensorBoard's axis is whole numbers.
    """
    _write(folder, results)
    for seed in sorted({result.seed for result in results}):
        _write(folder / f"seed_{seed}", [result for result in results if result.seed == seed])


def _write(folder: Path, results: list[Result]) -> None:
    """Replace the events of a folder; the old file goes when the new one is there."""
    from torch.utils.tensorboard import SummaryWriter

    folder.mkdir(parents=True, exist_ok=True)
    old = list(folder.glob("events.out.tfevents.*"))
    points: dict[tuple[str, int], list[float]] = defaultdict(list)
    for result in results:
        for name, value in _values(result).items():
            points[f"rounds/{name}", result.round].append(value)
            points[f"pruned_permille/{name}", round(1000 * (1 - result.density))].append(value)
    beside = Path(tempfile.mkdtemp(dir=folder, prefix=".new."))
    try:
        with SummaryWriter(str(beside)) as writer:
            for (tag, at), values in sorted(points.items()):
                writer.add_scalar(tag, fmean(values), at)
        for file in beside.iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for file in old:
        file.unlink(missing_ok=True)


def _values(result: Result) -> dict[str, float]:
    found = {
        "density": result.density,
        "density_all": result.density_all,
        "weights_left": float(result.kept),
        "val_acc": result.val_acc,
        "test_acc": result.test_acc,
        "start_acc": result.start_acc,
        "pruned_acc": result.pruned_acc,
        "early_stop_step": result.early_stop_step,
        "epochs": result.epochs,
    }
    return {name: float(value) for name, value in found.items() if value is not None}
