"""`summary/`: accuracy against density in TensorBoard."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from torch.utils.tensorboard import SummaryWriter

from ltpl.tickets.result import Result


def write_events(folder: Path, results: list[Result]) -> None:
    """Write one point a round, mean over seeds and seed by seed; the old file goes after.

    `rounds/...` counts rounds; `pruned_permille/...` has the share that is pruned on its axis,
    because TensorBoard's axis is whole numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old = list(folder.glob("events.out.tfevents.*"))
    points: dict[tuple[str, int], list[float]] = defaultdict(list)
    for result in results:
        permille = round(1000 * (1 - result.density))
        for name, value in _values(result).items():
            for tag, at in (
                (f"rounds/{name}", result.round),
                (f"pruned_permille/{name}", permille),
            ):
                points[tag, at].append(value)
                points[f"{tag}/seed_{result.seed}", at].append(value)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".summary."))
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
        "early_stop_step": result.early_stop_step,
    }
    return {name: float(value) for name, value in found.items() if value is not None}
