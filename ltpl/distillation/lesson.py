"""`Lesson`: what a student learns from what a teacher says to the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltpl.distillation.capture import Call
from ltpl.distillation.labels import labels_of, nodes_of, right
from ltpl.distillation.matching import Pair, distances
from ltpl.distillation.means import Shares
from ltpl.distillation.soft_labels import (
    agreement,
    binary_soft_label_loss,
    logit_distance,
    soft_label_loss,
)
from ltpl.distillation.teacher import Heard, output_of
from ltpl.masks.errors import unknown

LOSSES = ("kl", "mse")
NODES = ("all", "train")


@dataclass(frozen=True)
class Lesson:
    """How outputs of student and teacher are compared.

    Args:
        loss: `kl` or `mse`.
        output: Place, key or attribute of the logits among what the network returns.
        binary: Whether outputs are yes or no; where there is one a sample, if not given.
        class_dim: Where the classes are.
        nodes: Whose soft labels count in a graph: those of `all` nodes or of `train`.
        pairs: Layers that are matched.
        weights: Weight of each kind of pairs.
    """

    loss: str
    output: int | str | None
    binary: bool | None
    class_dim: int
    nodes: str
    pairs: Sequence[Pair]
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        for option, allowed in (("loss", LOSSES), ("nodes", NODES)):
            if getattr(self, option) not in allowed:
                raise unknown(option, getattr(self, option), allowed)

    def taught(
        self,
        own: Tensor,
        calls: list[Call],
        heard: list[Heard],
        batch: Any,
        alpha: float,
        temperature: float,
    ) -> tuple[Tensor, Shares]:
        """Return the loss that is trained on, and what is logged of it.

        Args:
            own: The module's own loss.
            calls: Calls of the student.
            heard: What the teacher says to each.
            batch: What `training_step` was called with.
            alpha: Weight of the soft labels.
            temperature: What logits are divided by.
        """
        student, teacher = self.rows(calls, heard)
        binary, nodes = self._is_binary(calls), nodes_of(batch, "train")
        both = [student, teacher]
        if self.nodes == "train":
            if nodes is None:
                raise ValueError("nodes='train': the batch has no train_mask. Use nodes='all'.")
            both = [rows.index_select(0, nodes) for rows in both]
        if self.loss == "mse":
            kd, weight = logit_distance(both[0], both[1]), alpha
        else:
            divergence = binary_soft_label_loss if binary else soft_label_loss
            kd, weight = divergence(both[0], both[1], temperature), alpha * temperature**2
        mixed = (1 - alpha) * own + weight * kd
        parts = {"ce": own.detach(), "kd": kd.detach()}
        for call, answer in zip(calls, heard, strict=True):
            for kind, distance in distances(self.pairs, call.hidden, answer.hidden).items():
                mixed = mixed + self.weights[kind] * distance
                parts[kind] = parts.get(kind, 0) + distance.detach()
        size = len(student)
        shares = {name: (part * size, size) for name, part in parts.items()}
        return mixed, {**shares, **_compared(student.detach(), teacher, batch, nodes, binary)}

    def compared(self, calls: list[Call], heard: list[Heard], batch: Any) -> Shares:
        """Return how far student and teacher agree on validation data."""
        student, teacher = self.rows(calls, heard)
        nodes = nodes_of(batch, "val")
        return _compared(student, teacher, batch, nodes, self._is_binary(calls))

    def rows(self, calls: list[Call], heard: list[Heard]) -> tuple[Tensor, Tensor]:
        """Return the logits of student and teacher, a row for each output, the classes last.

        Raises:
            ValueError: If their shapes differ.
        """
        ours, theirs = ([output_of(x.output, self.output) for x in xs] for xs in (calls, heard))
        for mine, yours in zip(ours, theirs, strict=True):
            if mine.shape != yours.shape:
                raise ValueError(
                    f"teacher: its outputs are {tuple(yours.shape)}, the student's "
                    f"{tuple(mine.shape)}; both must have the same samples and classes."
                )
        if not self._is_binary(calls):
            if any(not -x.dim() <= self.class_dim < x.dim() for x in ours):
                raise ValueError(f"class_dim={self.class_dim}: outputs are {tuple(ours[0].shape)}.")
            ours, theirs = (
                [x.movedim(self.class_dim, -1).flatten(0, -2) for x in xs] for xs in (ours, theirs)
            )
        student, teacher = (xs[0] if len(xs) == 1 else torch.cat(xs) for xs in (ours, theirs))
        return student, teacher

    def _is_binary(self, calls: list[Call]) -> bool:
        logits = output_of(calls[0].output, self.output)
        if self.binary is None:
            return logits.dim() == 1 or logits.shape[self.class_dim :][:1] == (1,)
        return self.binary


def _compared(
    student: Tensor, teacher: Tensor, batch: Any, nodes: Tensor | None, binary: bool
) -> Shares:
    size = len(student)
    same = {"agreement": (agreement(student, teacher, binary) * size, size)}
    hits = right(teacher, labels_of(batch), nodes, binary)
    return same if hits is None else {**same, "teacher_top1": hits}
