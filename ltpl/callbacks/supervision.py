"""`Supervision`: a teacher beside the steps of a LightningModule, as long as it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ltpl.callbacks.around import Around
from ltpl.distillation.capture import Call, Capture
from ltpl.distillation.lesson import Lesson
from ltpl.distillation.means import Means, Shares
from ltpl.distillation.recall import SameTensors
from ltpl.distillation.teacher import Heard, Teacher, output_of


class Rates(Protocol):
    """How much soft labels weigh, and how soft they are, at an epoch."""

    def __call__(self, epoch: int) -> tuple[float, float]:
        """Return alpha and temperature."""
        ...


class Supervision:
    """Runs the steps of a module inside of its own, and mixes what a teacher says into the loss.

    Args:
        pl_module: The LightningModule.
        path: Name of the student in it.
        teacher: The teacher.
        ask: What answers for it, from memory perhaps.
        lesson: How the two are compared.
        rates: Alpha and temperature by epoch.
        validate: Whether they are compared on validation data as well.
    """

    def __init__(
        self,
        pl_module: Any,
        path: str,
        teacher: Teacher,
        ask: Callable[[Call], Heard],
        lesson: Lesson,
        rates: Rates,
        validate: bool,
    ):
        self.module = pl_module
        self.path = path
        self.teacher = teacher
        self.ask = ask
        self.lesson = lesson
        self.rates = rates
        self.last: Shares = {}
        self.validated = Means()
        student = pl_module.get_submodule(path)
        self._capture = Capture(student, [pair.student for pair in lesson.pairs])
        self._around = [Around(pl_module, "training_step", self._train)]
        if validate:
            self._around.append(Around(pl_module, "validation_step", self._watch))

    def end(self) -> None:
        """Leave module, student and teacher as they were."""
        for around in self._around:
            around.remove()
        self._capture.remove()
        self.teacher.remove()

    def _train(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `training_step` and mix its loss with what the teacher says."""
        self.last = {}
        with self._capture.listening() as calls:
            output = step(*args, **kwargs)
        own = output.get("loss") if isinstance(output, Mapping) else output
        if own is None:  # the step is left out
            return output
        calls = self._followed(calls)
        heard = [self.ask(call) for call in calls]
        rates = self.rates(self.module.trainer.current_epoch)
        batch = _first(args, kwargs)
        mixed, self.last = self.lesson.taught(own, calls, heard, batch, *rates)
        return {**output, "loss": mixed} if isinstance(output, Mapping) else mixed

    def _followed(self, calls: list[Call]) -> list[Call]:
        """Return the calls that a gradient follows.

        Raises:
            ValueError: If there is none, or an input is not what it was.
        """
        name = self.path or "forward"
        followed = [c for c in calls if output_of(c.output, self.lesson.output).requires_grad]
        if not followed:
            what = "called it without a gradient" if calls else "did not call it"
            raise ValueError(
                f"Distillation listens to {name!r}, and training_step {what}: there are no logits "
                "to compare. Name the network that gives them, student=..."
            )
        if not all(call.is_untouched for call in followed):
            raise ValueError(
                f"student={name!r} changes its input in place, so the teacher would see another; "
                "build it with inplace=False at its beginning."
            )
        return followed

    def _watch(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `validation_step`, and compare student and teacher without touching anything."""
        with self._capture.listening() as calls:
            output = step(*args, **kwargs)
        if calls:
            ask = self.ask if isinstance(self.ask, SameTensors) else self.teacher
            heard = [ask(call) for call in calls]
            self.validated.add(self.lesson.compared(calls, heard, _first(args, kwargs)))
        return output


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)
