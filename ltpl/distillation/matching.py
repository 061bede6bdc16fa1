"""Hidden layers of a student and a teacher, and how far apart what they give is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.distillation.soft_labels import attention_distance, feature_distance
from ltpl.masks.errors import unknown

SIGN = "->"


@dataclass(frozen=True)
class Pair:
    """A layer of the student, and the layer of the teacher that it shall follow.

    Args:
        kind: `hidden`: the features themselves; `attention`: where they are large.
        student: Name inside the student.
        teacher: Name inside the teacher.
    """

    kind: str
    student: str
    teacher: str

    @classmethod
    def read(cls, kind: str, given: str | Sequence[str] | None) -> list[Pair]:
        """Read `layer`, or `layer -> layer of the teacher`."""
        texts = [given] if isinstance(given, str) else list(given or [])
        ends = [[end.strip() for end in text.split(SIGN)] for text in texts]
        if wrong := [text for text, parts in zip(texts, ends, strict=True) if len(parts) > 2]:
            raise ValueError(f"{kind}={wrong[0]!r}: write layer, or layer {SIGN} teacher's layer.")
        return [cls(kind, parts[0], parts[-1]) for parts in ends]

    def must_be_in(self, student: nn.Module, teacher: nn.Module) -> None:
        """Raise if one of the networks has no such layer.

        Raises:
            ValueError: With a layer that was probably meant.
        """
        for name, network in ((self.student, student), (self.teacher, teacher)):
            names = [each for each, _ in network.named_modules() if each]
            if name not in names:
                raise unknown(self.kind, name, names)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hidden": feature_distance,
    "attention": attention_distance,
}


def distances(
    wanted: Sequence[Pair], student: Mapping[str, list[Any]], teacher: Mapping[str, list[Any]]
) -> dict[str, Tensor]:
    """Return the sum of the distances of each kind.

    Args:
        wanted: The pairs of layers.
        student: What layers of the student returned in a call, by name.
        teacher: What layers of the teacher returned.

    Raises:
        ValueError: If a layer was not used, follows no gradient, or shapes differ.
    """
    found: dict[str, list[Tensor]] = {}
    for pair in wanted:
        both = student.get(pair.student, []), teacher.get(pair.teacher, [])
        if not both[0] or len(both[0]) != len(both[1]):
            raise ValueError(
                f"{pair.kind}={pair.student!r}: the student used it {len(both[0])} times in this "
                f"call, and the teacher its {pair.teacher!r} {len(both[1])} times."
            )
        for ours, theirs in zip(*both, strict=True):
            _must_match(pair, ours, theirs)
            found.setdefault(pair.kind, []).append(DISTANCES[pair.kind](ours, theirs))
    return {kind: torch.stack(each).sum() for kind, each in found.items()}


def _must_match(pair: Pair, ours: Any, theirs: Any) -> None:
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        raise ValueError(f"{pair.kind}={pair.student!r}: it returns no tensor.")
    if not ours.requires_grad:
        raise ValueError(
            f"{pair.kind}={pair.student!r}: no gradient follows what it returns; it is frozen, or "
            "runs under reentrant checkpointing."
        )
    shapes = tuple(ours.shape), tuple(theirs.shape)
    if pair.kind == "attention":
        if ours.dim() < 3:
            raise ValueError(
                f"attention={pair.student!r}: it returns {shapes[0]}, and a map has places behind "
                "the channels: (samples, channels, height, width)."
            )
        shapes = (shapes[0][:1] + shapes[0][2:], shapes[1][:1] + shapes[1][2:])
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{pair.kind}={pair.student!r}: the student's is {tuple(ours.shape)}, the teacher's "
            f"{tuple(theirs.shape)}; only equal shapes are compared."
        )
