"""`Distillation`: a teacher's soft labels for any LightningModule."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override

from ltpl.callbacks.namespace import Callback
from ltpl.callbacks.network import outermost, uncompiled
from ltpl.callbacks.supervision import Supervision
from ltpl.distillation.capture import Call
from ltpl.distillation.lesson import Lesson
from ltpl.distillation.matching import Pair
from ltpl.distillation.means import Means
from ltpl.distillation.recall import SameSamples, SameTensors
from ltpl.distillation.soft_labels import at_epoch
from ltpl.distillation.teacher import IN_ROUNDS, Heard, Teacher, taught, weights_of
from ltpl.masks.errors import unknown
from ltpl.tickets.lineage import Lineage
from ltpl.tickets.weights import must_exist


class Distillation(Callback):
    """Train on the labels and on a teacher's soft labels: Hinton et al. (2015).

    The loss of `training_step` becomes

        (1 - alpha) * loss + alpha * temperature**2 * KL(teacher || student)

    The student is found by itself and listened to while `training_step` runs, the teacher gets the
    same inputs, under the same autocast, in evaluation mode, without a gradient. It is no part of
    the LightningModule: checkpoints, optimisers and other processes do not see it.

    No gain is promised (`experiments/distillation`). On Cora a pruned GCN gains up to a point from
    the dense network's soft labels of *all* nodes while it has capacity left, nothing from those of
    the training nodes; on MNIST, where tickets are better than the dense network, it costs half a
    point. Ma et al. (2021) report that tickets of ResNets retrain as well so as by rewinding.

    Logged, means of each epoch: `distill/ce` (the module's own loss), `distill/kd` (the
    divergence), `distill/agreement` (share of outputs on which student and teacher decide alike),
    `distill/teacher_top1` (of the labels, where the batch has them), `distill/alpha` and
    `distill/temperature`; `distill/val_agreement` and `distill/val_teacher_top1` when it validates.
    The validation loss stays the module's own.

    Args:
        teacher: A network; a checkpoint, the folder of a finished round, or what `ltpl.save` wrote;
            `run:DIR`, the dense round of a run; `ema`, an average of the student itself. In rounds
            also `dense`, the default, and `previous`, the round that was pruned.
        student: Name of the network in the LightningModule, such as `net`: the part that holds
            everything that trains, if not given; empty for the LightningModule itself.
        temperature: What logits are divided by; by epoch, with straight lines between, if it is a
            dictionary, `{0: 8, 100: 2}`.
        alpha: Weight of the soft labels, 0 to 1; or by epoch.
        loss: `kl`, or `mse` of the logits, which knows no temperature.
        network: The teacher's network where it is another; `teacher` then names its weights.
        output: Place, key or attribute of the logits, if the network returns several things.
        binary: Whether outputs are yes or no, one by one; so where there is one a sample.
        class_dim: Where the classes are.
        nodes: In a graph, whose soft labels count: those of `all` nodes, or of `train` alone.
        hidden: Layers whose output shall be the teacher's too: `layer2`, or `layer2 -> blocks.3`
            for a layer of another name in the teacher.
        hidden_weight: Weight of their mean squared differences.
        attention: Layers that shall be active where the teacher's are: attention transfer.
        attention_weight: Weight of that.
        decay: How much of an `ema` stays at each step.
        cache: Whether answers of the teacher are kept: where the very same tensors come again, as a
            whole graph does, if not given; by sample with true, which refuses augmented data.
        from_round: In rounds, the first that is distilled: 1 for all but the dense network, 0 for
            that too.
        validate: Whether student and teacher are compared on validation data as well.

    Raises:
        ValueError: If an option is out of range or a name is unknown.

    Example:
        >>> from ltpl.callbacks import Distillation
        >>> Distillation("dense.ckpt", temperature=2.0, alpha={0: 0.9, 50: 0.1}).rates(25)
        (0.5, 2.0)
    """

    def __init__(
        self,
        teacher: str | Path | nn.Module | None = None,
        student: str | None = None,
        temperature: float | dict[int, float] = 4.0,
        alpha: float | dict[int, float] = 0.5,
        loss: str = "kl",
        network: nn.Module | None = None,
        output: int | str | None = None,
        binary: bool | None = None,
        class_dim: int = 1,
        nodes: str = "all",
        hidden: str | list[str] | None = None,
        hidden_weight: float = 1.0,
        attention: str | list[str] | None = None,
        attention_weight: float = 1000.0,
        decay: float = 0.999,
        cache: bool | None = None,
        from_round: int = 1,
        validate: bool = True,
    ):
        ranges: list[tuple[str, Any, Callable[[float], bool], str]] = [
            ("temperature", temperature, lambda t: 0 < t <= 1e9, "above 0, at most 1e9"),
            ("alpha", alpha, lambda a: 0 <= a <= 1, "from 0 to 1"),
            ("hidden_weight", hidden_weight, lambda w: 0 <= w < math.inf, "0 or more"),
            ("attention_weight", attention_weight, lambda w: 0 <= w < math.inf, "0 or more"),
            ("decay", decay, lambda d: 0 <= d < 1, "from 0 to below 1"),
            ("from_round", from_round, lambda r: r >= 0, "0 or more"),
        ]
        for option, given, allowed, wanted in ranges:
            values = list(given.values()) if isinstance(given, dict) else [given]
            if not values or not all(allowed(value) for value in values):
                raise ValueError(f"{option}={given!r}: {wanted} is wanted.")
        pairs = [*Pair.read("hidden", hidden), *Pair.read("attention", attention)]
        weights = {"hidden": hidden_weight, "attention": attention_weight}
        named = None if isinstance(teacher, nn.Module) else teacher and str(teacher)
        if network is not None and named is None:
            raise ValueError("network: name its weights too, teacher='big.ckpt'.")
        if cache and (pairs or named == "ema"):
            what = "hidden layers" if pairs else "a teacher that moves"
            raise ValueError(f"cache=True keeps the logits of a fixed teacher, not {what}.")
        if from_round == 0 and (teacher is None or named in IN_ROUNDS):
            raise ValueError("from_round=0: the dense round has no teacher yet; name another one.")
        self.teacher = teacher if named is None else named
        self.student = student
        self.temperature = temperature
        self.alpha = alpha
        self.network = network
        self.decay = decay
        self.cache = cache
        self.from_round = from_round
        self.validate = validate
        self.lesson = Lesson(loss, output, binary, class_dim, nodes, pairs, weights)
        self.average: AveragedModel | None = None
        self._average_state: dict[str, Any] | None = None
        self._lineage: Lineage | None = None
        self._skeleton: nn.Module | None = None
        self._supervision: Supervision | None = None
        self._means = Means()
        self._stepped = 0

    @property
    def state_key(self) -> str:
        """Two teachers of one student keep separate states."""
        teacher = type(self.teacher).__name__ if isinstance(self.teacher, nn.Module) else None
        return self._generate_state_key(teacher=teacher or self.teacher, student=self.student)

    def rates(self, epoch: int) -> tuple[float, float]:
        """Return alpha and temperature when so many epochs have been trained."""
        return at_epoch(self.alpha, epoch), at_epoch(self.temperature, epoch)

    def on_round(self, trainer: Any, pl_module: Any, lineage: Lineage) -> None:
        """Take note of the round that comes; refuse a teacher that is not there at once."""
        self._lineage = lineage
        if isinstance(self.teacher, str) and self.teacher not in (*IN_ROUNDS, "ema"):
            must_exist(weights_of(self.teacher, lineage))

    @property
    def acts(self) -> bool:
        """Whether this fit is distilled: every one but early rounds."""
        if self._lineage is None:
            return True
        has_teacher = self.teacher not in (None, "dense") or self._lineage.dense is not None
        early = self._lineage.level < self.from_round and self._lineage.branch is None
        return has_teacher and not early

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit" or not self.acts:
            return
        if not pl_module.automatic_optimization:
            raise ValueError(
                "Distillation adds to the loss that training_step returns; with manual "
                f"optimisation {type(pl_module).__name__} returns none."
            )
        if self.teacher is None and self._lineage is None:
            raise ValueError("teacher: name one: a checkpoint, a network, run:DIR or ema.")
        if not isinstance(self.teacher, nn.Module) and self.network is None:
            student = self._find(pl_module)[1]
            if self.teacher != "ema" and student is not None:  # later it may be compacted
                self._skeleton = copy.deepcopy(uncompiled(student))

    def _find(self, pl_module: nn.Module) -> tuple[str, nn.Module | None]:
        """Return name and object of the student; None if it is built later."""
        if self.student is None:
            trains = any(parameter.requires_grad for parameter in pl_module.parameters())
            return outermost(pl_module) if trains else ("", None)
        path = self.student
        names = [name for name, _ in pl_module.named_modules() if "_orig_mod" not in name]
        if path not in names and names[1:]:
            raise unknown("student", path, names[1:])
        return path, pl_module.get_submodule(path) if path in names else None

    @override
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if not self.acts:
            return
        path, student = self._find(pl_module)
        if student is None:
            raise unknown("student", path, [n for n, _ in pl_module.named_modules() if n])
        student = uncompiled(student)
        name, network = self._taught(pl_module, path, student)
        network = trainer.precision_plugin.convert_module(network)
        network.to(trainer.strategy.root_device)
        for pair in self.lesson.pairs:
            pair.must_be_in(student, network)
        teacher = Teacher(network, [pair.teacher for pair in self.lesson.pairs])
        ask: Callable[[Call], Heard] = teacher
        if self.cache:
            ask = SameSamples(teacher, self.lesson.output)
        elif self.cache is None and self.average is None:
            ask = SameTensors(teacher)
        self._stepped = trainer.global_step
        self._supervision = Supervision(
            pl_module, path, teacher, ask, self.lesson, self.rates, self.validate
        )
        rank_zero_info(f"Distillation: {name} teaches {path or type(pl_module).__name__}")

    def _taught(self, pl_module: nn.Module, path: str, student: nn.Module) -> tuple[str, nn.Module]:
        """Return what the teacher is called, and its network."""
        if isinstance(self.teacher, nn.Module):
            as_ours = isinstance(self.teacher, type(pl_module))
            network = self.teacher.get_submodule(path) if as_ours else self.teacher
            return type(network).__name__, network
        if self.teacher == "ema":
            update = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(student, multi_avg_fn=update).requires_grad_(False)
            if self._average_state is not None:
                self.average.load_state_dict(self._average_state)
            return f"an average with decay {self.decay}", self.average.module
        weights = weights_of(self.teacher or "dense", self._lineage)
        alike = copy.deepcopy(student) if self._skeleton is None else self._skeleton
        self._skeleton = None
        return str(weights), taught(self.network, alike, weights, path)

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self._supervision is None:
            return
        self._means.add(self._supervision.last)  # pruners may have looked at the loss before
        if self.average is not None and trainer.global_step != self._stepped:
            student = pl_module.get_submodule(self._supervision.path)
            self.average.update_parameters(uncompiled(student))
            self._stepped = trainer.global_step

    @override
    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._supervision is not None:
            _log(trainer, pl_module, "distill/val_", self._supervision.validated.pop())

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._supervision is None:
            return
        alpha, temperature = self.rates(trainer.current_epoch)
        rates = {"alpha": alpha, "temperature": temperature}
        _log(trainer, pl_module, "distill/", {**self._means.pop(), **rates})
        if isinstance(self._supervision.ask, SameSamples):
            self._supervision.ask.ends_epoch()

    @override
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._end()

    @override
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        if self._supervision is not None:
            self._supervision.end()
        self._supervision = self._skeleton = self._average_state = None

    @override
    def state_dict(self) -> dict[str, Any]:
        average = None if self.average is None else self.average.state_dict()
        return {"average": average, "means": self._means.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._average_state = state_dict["average"]
        self._means.load_state_dict(state_dict["means"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_supervision": None}


def _log(trainer: Any, pl_module: Any, begin: str, means: dict[str, Any]) -> None:
    if means:
        values = {begin + name: mean for name, mean in means.items()}
        several = trainer.world_size > 1
        pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=several)
