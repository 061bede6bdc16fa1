"""The dense network at an early moment, for a branch: kept by the run, or trained until there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from ltpl.callbacks.masking import tell
from ltpl.callbacks.policy import Policy
from ltpl.callbacks.rewinding import RewindToEpoch
from ltpl.masks.mask import Mask
from ltpl.masks.schedule import Never
from ltpl.rounds.checkpoint import MidRound, newest_checkpoint
from ltpl.rounds.draw import prepare
from ltpl.rounds.experiment import Experiment
from ltpl.rounds.keeping import kept_at
from ltpl.rounds.plan import Plan
from ltpl.rounds.pulse import Pulse
from ltpl.rounds.ranks import from_leader, leads, wait_for_all
from ltpl.rounds.seeds import EpochSeeds
from ltpl.rounds.stop import Stop
from ltpl.rounds.tree import RunTree
from ltpl.tickets.lineage import Lineage
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.step import Step
from ltpl.tickets.ticket import START


@dataclass(frozen=True)
class Lines:
    """A branch and the run that it leaves.

    Args:
        plan: Seeds of the run.
        main: The run.
        branch: The branch.
    """

    plan: Plan
    main: RunTree
    branch: RunTree


def rewinding_point(
    experiment: Experiment,
    lines: Lines,
    rewinder: RewindToEpoch,
    seed: int,
    initial: Snapshot,
    stop: Stop,
) -> Snapshot:
    """Return the dense network at the rewinding point.

    Args:
        experiment: Builds it.
        lines: The branch and its run.
        rewinder: Says where the point is.
        seed: The replicate.
        initial: The network before training.
        stop: Hears signals.
    """
    if rewinder.policy in (Policy.reinit, Policy.continue_):
        return Snapshot.load(lines.main.round(seed, 0) / START)
    return dense_at(experiment, lines, rewinder.step, seed, initial, stop)


def dense_at(
    experiment: Experiment, lines: Lines, step: Step, seed: int, initial: Snapshot, stop: Stop
) -> Snapshot:
    """Return the dense network at a moment: kept by the run, or trained until there.

    Args:
        experiment: Builds it.
        lines: The branch and its run.
        step: When.
        seed: The replicate.
        initial: The network before training.
        stop: Hears signals.
    """
    dense = lines.main.round(seed, 0)
    kept = Snapshot.load(dense / START)
    if kept.step == str(step):
        return kept
    if step.is_start:
        return initial
    if kept_at(dense, step).is_file():
        return Snapshot.load(kept_at(dense, step))
    folder = lines.branch.path / f"seed_{seed}" / "rewind"
    path = folder / f"{step}.safetensors"
    if not from_leader(path.is_file):
        seeds = lines.plan.seeds_of(seed)
        keep = _Until(at=str(step), dirpath=str(folder))
        save = MidRound(folder / "checkpoints" / "last.ckpt", Pulse(stop))
        epochs = EpochSeeds(seeds.order, seeds.augmentation)
        parts = experiment.build(seeds.init, folder, [epochs, keep, save], [])
        prepare(parts)
        tell(parts.trainer, "on_round", parts.module, Lineage(seed, 0, folder, None, None))
        parts.pruner.schedule = Never()
        parts.pruner.hold(parts.module, Mask.dense(parts.pruner.prunable(parts.module)))
        found = from_leader(lambda: newest_checkpoint(folder))
        parts.trainer.fit(parts.module, datamodule=parts.data, ckpt_path=found and found[0])
        if keep.snapshot_path is None:
            raise ValueError(f"{step} is asked for, but dense training ends before.")
        if leads():
            Path(keep.snapshot_path).rename(path)
            shutil.rmtree(save.path.parent)
        wait_for_all()
    return Snapshot.load(path)


class _Until(RewindToEpoch):
    """Take the snapshot, then stop."""

    @override
    def on_train_batch_start(  # type: ignore[override]
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> int | None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self.snapshot_path is None:
            return None
        trainer.should_stop = True
        return -1
