"""One round: an ordinary fit that starts from a ticket and lives in its own folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import yaml

from ltpl.callbacks.masking import tell
from ltpl.callbacks.position import go_to, position
from ltpl.callbacks.rewinding import RewindToEpoch
from ltpl.masks.files import whole_file
from ltpl.masks.mask import Mask
from ltpl.masks.paths import Live
from ltpl.masks.schedule import Never
from ltpl.rounds.checkpoint import MidRound, newest_checkpoint
from ltpl.rounds.draw import prepare, without_slots
from ltpl.rounds.experiment import Experiment, Parts
from ltpl.rounds.living import Living
from ltpl.rounds.measure import Measure, accuracy, validation_loss
from ltpl.rounds.metrics import MetricsFile, events
from ltpl.rounds.plan import Plan
from ltpl.rounds.pulse import Pulse
from ltpl.rounds.ranks import averaged, from_leader, leads, must_agree, wait_for_all
from ltpl.rounds.seeds import EpochSeeds, Seeds
from ltpl.rounds.start import TicketStart
from ltpl.rounds.stop import Stop
from ltpl.tickets.files import stored_digest
from ltpl.tickets.lineage import Lineage
from ltpl.tickets.result import FILE, Result
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.ticket import FINAL, MASK, START, Ticket


class Round:
    """One round of a run or of a branch.

    Args:
        experiment: Builds the parts.
        plan: How a round is judged.
        lineage: Where the round lives, and what it comes from; callbacks are told.
        seeds: Its four seeds.
        display: Shows the steps.
        stop: Hears signals.
    """

    def __init__(
        self,
        experiment: Experiment,
        plan: Plan,
        lineage: Lineage,
        seeds: Seeds,
        display: Any,
        stop: Stop,
    ):
        self.plan = plan
        self.lineage = lineage
        self.folder = folder = lineage.folder
        self.checkpoint = from_leader(lambda: newest_checkpoint(folder))
        from_step = self.checkpoint[1] if self.checkpoint else 0
        self._epochs = EpochSeeds(seeds.order, seeds.augmentation)
        self._start = TicketStart()
        self._display = display
        self._measure = Measure(keep_best=plan.test_at == "early_stop")
        self._living = Living()
        last = folder / "checkpoints" / "last.ckpt"
        save = MidRound(last, Pulse(stop), plan.save_every_n_steps)
        callbacks = [self._epochs, self._start, self._measure, self._living, save, display]
        if leads():
            folder.mkdir(parents=True, exist_ok=True)
            for torso in folder.rglob(".*"):  # files that a killed process had not finished
                torso.unlink()
            with whole_file(folder / "config.yaml") as beside:
                beside.write_text(yaml.safe_dump(experiment.config, sort_keys=False))
        self._events = events(experiment.package, folder, from_step)
        loggers = [self._events, MetricsFile(folder / "metrics.csv", from_step)]
        self.parts: Parts = experiment.build(seeds.init, folder, callbacks, loggers)
        prepare(self.parts)
        self.parts.pruner.schedule = Never()  # what is next is drawn when the round has ended
        tell(self.parts.trainer, "on_round", self.parts.module, lineage)

    def dense(self) -> dict[str, Any]:
        """Keep every weight, and take the snapshot that later rounds go back to."""
        parts = self.parts
        step = parts.rewinder.step
        mask = Mask.dense(parts.pruner.prunable(parts.module))
        if leads():
            mask.save(self.folder / MASK)
        parts.pruner.hold(parts.module, mask)
        keep = RewindToEpoch(at=str(step), dirpath=str(self.folder))
        parts.trainer.callbacks.insert(0, keep)
        return {"policy": "dense", "rewind": str(step)}

    def ticket(self, drawn: Callable[[Parts], Ticket]) -> Ticket:
        """Start from this round's ticket: the one that is there, or one that is drawn now."""
        if not from_leader(lambda: Ticket.is_whole(self.folder)):
            if (self.folder / MASK).exists():
                self._display.line(f"The ticket in {self.folder} is damaged and drawn again.")
            ticket = drawn(self.parts)
            if leads():
                ticket.save(self.folder)
        wait_for_all()
        ticket = Ticket.load(self.folder)
        must_agree(f"The mask in {self.folder}", ticket.mask.digest)
        module = self.parts.module
        ticket.start.restore_weights_(module)
        self.parts.pruner.hold(module, ticket.mask, ticket.made_by["pinned"])
        self._start.ticket = ticket
        if ticket.start.position:
            go_to(self.parts.trainer, ticket.start.position)
            self._epochs.skip = ticket.start.position["batches"]
        return ticket

    def train(self) -> None:
        """Validate the ticket, train it, and write the trained network."""
        trainer, module, data = self.parts.trainer, self.parts.module, self.parts.data
        if self.checkpoint is None and validates(module, data):
            start = _flat(trainer.validate(module, data, verbose=False))
            self._measure.start_with(start, validation_loss(start, self.plan.monitor))
            accuracy(start, self.plan.accuracy)
        trainer.fit(module, datamodule=data, ckpt_path=self.checkpoint and self.checkpoint[0])
        self._must_have_snapshot()
        final = Snapshot.take("end", module, trainer.optimizers)
        optimizers = without_slots(final.optimizers)
        for state, rates in zip(optimizers, self._start.last_rates, strict=False):
            for group, rate in zip(state["param_groups"], rates, strict=True):
                group["lr"] = rate
        if leads():
            replace(final, optimizers=optimizers).save(self.folder / FINAL)
        wait_for_all()

    def _must_have_snapshot(self) -> None:
        if leads() and not (self.folder / START).is_file():
            if self.parts.trainer.fast_dev_run:
                Snapshot.take("0ep", self.parts.module).save(self.folder / START)
                return
            raise ValueError(
                f"rewind goes back to {self.parts.rewinder.step}, but training ended before, after "
                f"{self.parts.trainer.current_epoch} epochs and {self.parts.trainer.global_step} "
                "steps: rewind to an earlier moment or train longer."
            )

    def judge(self, made_by: dict[str, Any]) -> Result:
        """Test once, and write the result; with it, the round is finished."""
        parts, measure = self.parts, self._measure
        trainer, module, data = parts.trainer, parts.module, parts.data
        steps = int(trainer.global_step)
        made_by = dict(made_by)
        pruned = made_by.pop("pruned", {})
        if measure.loss is not None and measure.end_step != steps:
            measure.end = _flat(trainer.validate(module, data, verbose=False))
        mask = parts.pruner.mask
        assert mask is not None
        if measure.best:
            module.load_state_dict(measure.best)
        testing = tests(module, data)
        test = _flat(trainer.test(module, data, verbose=False)) if testing else {}
        living = self._living.found or Live(dead=mask.empty)
        at_best = self.plan.test_at == "early_stop" and measure.early_stop
        result = Result(
            seed=self.lineage.seed,
            round=self.lineage.level,
            kept=mask.kept,
            total=mask.total,
            parameters=sum(p.numel() for p in module.parameters()),
            layers=[(row.name, row.kept, row.total) for row in mask.table()],
            live_inputs=living.inputs,
            inputs=living.inputs_total,
            live_paths=living.paths,
            dead=list(living.dead),
            start=measure.start,
            pruned=pruned,
            early_stop=measure.early_stop,
            early_stop_step=measure.early_stop_step,
            end=measure.end,
            steps=steps,
            test=test,
            val_acc=accuracy(measure.early_stop if at_best else measure.end, self.plan.accuracy),
            test_acc=accuracy(test, self.plan.accuracy),
            start_acc=accuracy(measure.start, self.plan.accuracy),
            pruned_acc=accuracy(pruned, self.plan.accuracy),
            seconds=measure.seconds,
            epochs=self._epochs_trained(),
            made_by={**made_by, "mask_digest": mask.digest},
            branch=self.lineage.branch,
            files={f.name: stored_digest(f) or "" for f in self.folder.glob("*.safetensors")},
        )
        self._events.experiment.close()
        if leads():
            result.save(self.folder / FILE)
            for checkpoint in (self.folder / "checkpoints").glob("last.ckpt"):
                checkpoint.unlink()
        wait_for_all()
        return result

    def _epochs_trained(self) -> float | None:
        """Return how many epochs this round has trained, without those before its ticket."""
        ticket, trainer = self._start.ticket, self.parts.trainer
        before = ticket.start.position.get("all_batches", 0) if ticket else 0
        length = trainer.num_training_batches
        trained = position(trainer)["all_batches"] - before
        return trained / length if 0 < length < math.inf else None


def _flat(found: Any) -> dict[str, float]:
    """Return the metrics of all loaders; nothing where Lightning had no batch to look at."""
    return averaged({name: float(value) for each in found or [] for name, value in each.items()})


def validates(module: Any, data: Any) -> bool:
    """Whether there is something to validate on, and a way to."""
    return _own(module, "validation_step") and _has(module, data, "val_dataloader")


def tests(module: Any, data: Any) -> bool:
    """Whether there is something to test on, and a way to."""
    return _own(module, "test_step") and _has(module, data, "test_dataloader")


def _has(module: Any, data: Any, loader: str) -> bool:
    return any(source is not None and _own(source, loader) for source in (module, data))


def _own(instance: Any, method: str) -> bool:
    """Whether a method is the project's own, not the one that Lightning declares."""
    where = getattr(type(instance), method).__module__
    return not where.startswith(("pytorch_lightning.core.", "lightning.pytorch.core."))
