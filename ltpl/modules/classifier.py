"""`Classifier`: what image and node classifiers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.classification import multiclass_accuracy

from ltpl.models import Network
from ltpl.models.options import below_one, instance, one_of
from ltpl.modules.groups import parameter_groups


class Classifier(LightningModule):
    """Cross-entropy training of a network that returns logits, with metrics for every stage.

    Logged are `train/loss` and `train/acc` of single batches and `train/lr`, every
    `log_every_n_steps` of the trainer and at the end of an epoch of several batches;
    `train/loss_epoch` and `train/acc_epoch` over the samples of each epoch, as the network was when
    it saw them, of epochs of one step every `log_every_n_steps` as well, unless something monitors
    them; and `val/loss`, `val/acc`, `test/loss`, `test/acc` over all samples, without label
    smoothing.

    Args:
        network: The network; it returns logits.
        optimizer: The optimiser; any torch class.
        lr_scheduler: The learning-rate schedule; any torch class, or `WarmupDrops`.
        lr_interval: When the schedule steps: epoch or step; as the schedule has it if not given,
            which is step for `WarmupDrops` and epoch for all others.
        label_smoothing: Share of the target that goes to all classes alike, while training; 0 to 1.
        no_decay: Parameters without weight decay: `norm`, `bias`, names, or globs such as `fc.*`.
        metrics: More torchmetrics by name, for validation and test: `val/<name>`, `test/<name>`.
        compile: Whether the network is compiled with `torch.compile`; or the options of that, such
            as `{mode: max-autotune}`.
    """

    def __init__(
        self,
        network: Network | nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] | None = None,
        label_smoothing: float = 0.0,
        no_decay: str | Sequence[str] = (),
        metrics: Mapping[str, Metric] | None = None,
        compile: bool | dict[str, Any] = False,
    ):
        super().__init__()
        instance("network", network, nn.Module, "a module")
        instance("optimizer", optimizer, Callable, "what makes an optimiser")
        instance("lr_scheduler", lr_scheduler, (Callable, NoneType), "what makes a schedule")
        instance("compile", compile, (bool, dict), "true, false or options")
        instance("metrics", metrics, (Mapping, NoneType), "metrics by name")
        instance("no_decay", no_decay, Sequence, "a name or a list of names")
        for name in () if isinstance(no_decay, str) else no_decay:
            instance("no_decay", name, str, "a list of names")
        for metric in (metrics or {}).values():
            instance("metrics", metric, Metric, "a torchmetrics Metric by name")
        if lr_interval is not None:
            one_of("lr_interval", lr_interval, ["epoch", "step"])
        below_one("label_smoothing", label_smoothing)
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_interval = lr_interval
        self.label_smoothing = label_smoothing
        self.no_decay = no_decay
        self.compiles = compile
        self._sums: dict[str, Any] = {}  # over the samples of the running epoch
        if metrics:
            collection = MetricCollection(dict(metrics))
            self.val_metrics = collection.clone(prefix="val/")
            self.test_metrics = collection.clone(prefix="test/")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; the one that Lightning sets forty times a step goes a short way."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def setup(self, stage: str) -> None:
        """Check that the network has an output for each class of the data.

        Raises:
            ValueError: If it has fewer.
        """
        data = getattr(self.trainer, "datamodule", None)
        outputs = self._outputs()
        classes = getattr(data, "classes", None)
        if outputs is not None and isinstance(classes, int) and outputs < classes:
            raise ValueError(
                f"outputs={outputs}: {type(data).__name__} has {classes} classes, and the network "
                f"wants an output for each; set outputs={classes}."
            )

    def _outputs(self) -> int | None:
        stated = getattr(self.network, "output_layer", None)
        name = stated if isinstance(stated, str) else stated[-1] if stated else None
        weight = getattr(self.network.get_submodule(name), "weight", None) if name else None
        return len(weight) if isinstance(weight, Tensor) and weight.dim() == 2 else None

    def configure_model(self) -> None:
        """Compile the network where that is asked for, in place: its names stay as they are."""
        if self.compiles is not False and self.network._compiled_call_impl is None:
            self.network.compile(**({} if self.compiles is True else self.compiles))

    def _learn(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss; log it and the accuracy on the steps that are written."""
        loss = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        if self._is_written():
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            means = {"train/loss": loss, "train/acc": accuracy(logits, labels), "train/lr": rate}
            self.log_dict(means, batch_size=len(labels))
        self._add(loss.detach(), logits.detach(), labels)
        return loss

    def _add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add up what is logged of the epoch; `self.log` would take as long as the step."""
        right = (logits.argmax(1) == labels).sum()
        for name, value in (("loss", loss * len(labels)), ("acc", right), ("size", len(labels))):
            self._sums[name] = self._sums.get(name, 0) + value

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch."""
        size = self._sums.pop("size", 0)
        if size and self._is_told():
            means = {f"train/{name}_epoch": value / size for name, value in self._sums.items()}
            self.log_dict(means, sync_dist=True, batch_size=float(size))  # type: ignore[arg-type]
        self._sums.clear()

    def _is_told(self) -> bool:
        """Whether this epoch is logged: all are, but not those of one step that nobody waits for.

        Logging takes a fifth of the time of such an epoch.
        """
        trainer: Any = self.trainer
        every, ends = trainer.log_every_n_steps, trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.num_training_batches != 1 or ends or trainer.should_stop:
            return True
        watching = [*trainer.callbacks, *trainer.lr_scheduler_configs]
        watched = any(str(getattr(x, "monitor", None)).startswith("train/") for x in watching)
        return watched or (every > 0 and trainer.global_step % every == 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was added up, for a fit that goes on inside the epoch."""
        checkpoint["sums_of_epoch"] = {name: float(value) for name, value in self._sums.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on adding up."""
        self._sums = dict(checkpoint.get("sums_of_epoch", {}))

    def _evaluate(self, logits: Tensor, labels: Tensor, stage: str) -> None:
        """Log loss and metrics over all samples of a stage, of all processes."""
        means = {
            f"{stage}/loss": cross_entropy(logits.float(), labels),
            f"{stage}/acc": accuracy(logits, labels),
        }
        # weighted by the size of each batch, over all processes; of whole numbers Lightning would
        # round the mean over the processes
        size: Any = float(len(labels))
        self.log_dict(means, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        if (metrics := getattr(self, f"{stage}_metrics", None)) is not None:
            metrics.update(logits, labels)
            self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(labels))

    def _is_written(self) -> bool:
        """Whether the trainer will write what this training step logs.

        Logging costs 0.4 ms, as much as a step of a small network on a CPU. The last batch of an
        epoch counts too, so that callbacks find the names at the end of every epoch; unless that is
        the only one, where the means of the epoch say the same.
        """
        trainer: Any = self._trainer
        if trainer is None:
            return False
        every = trainer.log_every_n_steps
        is_turn = every > 0 and (trainer.global_step + 1) % every == 0
        ends = trainer.is_last_batch and trainer.num_training_batches != 1
        return bool(is_turn or ends or trainer.should_stop or trainer.fast_dev_run)

    def configure_optimizers(self) -> Any:
        """Return the optimiser, with its schedule where there is one."""
        optimizer = self.optimizer(parameter_groups(self.network, self.no_decay))
        if self.lr_scheduler is None:
            return optimizer
        schedule: Any = self.lr_scheduler(optimizer)
        if getattr(schedule, "counts_epochs", False):
            schedule.in_epochs_of(self._steps_per_epoch())
        how = {
            "scheduler": schedule,
            "interval": self.lr_interval or getattr(schedule, "interval", "epoch"),
        }
        if hasattr(schedule, "monitor"):
            how["monitor"] = schedule.monitor
        return {"optimizer": optimizer, "lr_scheduler": how}

    def _steps_per_epoch(self) -> int:
        trainer: Any = self.trainer
        trainer.fit_loop.setup_data()
        batches: float = trainer.num_training_batches
        if math.isinf(batches):
            raise ValueError(
                "lr_scheduler: it counts epochs, and the training data has no length; give its "
                "moments in iterations, such as '32000it'."
            )
        return math.ceil(batches / int(trainer.accumulate_grad_batches))


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of samples whose largest logit is that of their label."""
    return multiclass_accuracy(logits, labels, average="micro", validate_args=False)
