"""Proof: the masked and the compacted network compute the same, or nothing is handed over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ltpl.compaction.errors import CompactionError
from ltpl.compaction.graph import evaluating

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


@dataclass(frozen=True)
class Proof:
    """How far the two networks are apart.

    Args:
        error: The largest difference, as a share of the largest output, in the weights' precision.
        error64: The same with everything in float64.
        batches: On how many batches.
    """

    error: float
    error64: float
    batches: int

    def __str__(self) -> str:
        return (
            f"equal to {self.error:.1e} of the largest output ({self.error64:.1e} in float64) on "
            f"{self.batches} batches"
        )


def prove(
    masked: nn.Module,
    compact: nn.Module,
    doubles: tuple[nn.Module, nn.Module],
    batches: Sequence[tuple[Any, ...]],
    tolerance: float,
) -> Proof:
    """Compare the outputs of both networks in evaluation mode.

    Args:
        masked: The network with its pruned weights at zero.
        compact: The same without them.
        doubles: Both once more, made in float64.
        batches: What to feed, as positional arguments.
        tolerance: The largest error allowed, as a share of the largest output.

    Raises:
        CompactionError: If they differ by more; by more than 1e-10 in float64.
    """
    error = max(_error(masked, compact, batch) for batch in batches)
    error64 = max(_error(*doubles, tree_map(_doubled, batch)) for batch in batches)
    for found, allowed, precision in (
        (error, tolerance, "the precision of its weights"),
        (error64, TOLERANCE[torch.float64], "float64"),
    ):
        if not found <= allowed:
            raise CompactionError(
                f"The compacted network differs from the masked one by {found:.1e} of the largest "
                f"output in {precision}; {allowed:.0e} is allowed. Nothing was changed."
            )
    return Proof(error, error64, len(batches))


def _doubled(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _error(masked: nn.Module, compact: nn.Module, batch: tuple[Any, ...]) -> float:
    with evaluating(masked), evaluating(compact), torch.no_grad():
        try:
            pairs = zip(tensors(masked(*batch)), tensors(compact(*batch)), strict=True)
            return max((_apart(a, b) for a, b in pairs), default=0.0)
        except (RuntimeError, IndexError, ValueError) as error:
            line = str(error).strip().split("\n")[0]
            raise CompactionError(
                f"The compacted network cannot run: {type(error).__name__}: {line}. Nothing was "
                "changed."
            ) from error


def tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of real numbers among what a network returns."""
    return (x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point())


def _apart(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        raise RuntimeError(
            f"its output has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
        )
    if not expected.numel():
        return 0.0
    largest = float(expected.abs().max())
    return float((expected - found).abs().max()) / (largest or 1.0)


def drawn(example: tuple[Any, ...], count: int, seed: int = 0) -> list[tuple[Any, ...]]:
    """Return the example and random inputs like it."""
    generator = torch.Generator().manual_seed(seed)

    def like(x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_floating_point() and x.layout == torch.strided:
            return torch.randn(x.shape, generator=generator).to(x)
        return x

    return [example, *(tree_map(like, example) for _ in range(count))]
