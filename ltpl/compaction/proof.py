"""Proof: the masked and the compacted network compute the same, or nothing is handed over."""

from __future__ import annotations

import math
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
        error64: The same with everything in float64; NaN if the network's own code wants another
            precision.
        batches: On how many batches.
    """

    error: float
    error64: float
    batches: int

    def __str__(self) -> str:
        exact = "no" if math.isnan(self.error64) else f"{self.error64:.1e} in"
        return (
            f"equal to {self.error:.1e} of the largest output ({exact} float64) on "
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
    pairs = [(masked, compact, batches, max(tolerance, _coarse(compact)))]
    doubled = [tree_map(_doubled, batch) for batch in batches]
    if all(_runs(doubles[0], batch) for batch in doubled):
        pairs.append((*doubles, doubled, TOLERANCE[torch.float64]))
    errors: list[float] = []
    for one, other, data, allowed in pairs:
        found = _worst([_error(one, other, batch) for batch in data])
        if not found <= allowed:
            precision = "float64" if errors else "the precision of its weights"
            raise CompactionError(
                f"The compacted network differs from the masked one by {found:.1e} of the largest "
                f"output in {precision}; {allowed:.0e} is allowed. Nothing was changed."
            )
        errors.append(found)
    return Proof(errors[0], errors[1] if len(errors) > 1 else math.nan, len(batches))


def _coarse(net: nn.Module) -> float:
    """Return what rounding alone does to weights of 16 bits; 0 where they are finer."""
    types = {p.dtype for p in net.parameters() if p.is_floating_point()}
    steps = [torch.finfo(dtype).eps for dtype in types]
    return max((32 * step for step in steps if step > torch.finfo(torch.float32).eps), default=0.0)


def _runs(net: nn.Module, batch: tuple[Any, ...]) -> bool:
    """Whether a network can be run in float64: its own code may fix another type."""
    with evaluating(net), torch.no_grad():
        try:
            net(*batch)
        except RuntimeError:
            return False
    return True


def _worst(errors: Sequence[float]) -> float:
    """Return the largest error; NaN, which compares with nothing, before all."""
    return max(errors, key=lambda error: (math.isnan(error), error))


def _doubled(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _error(masked: nn.Module, compact: nn.Module, batch: tuple[Any, ...]) -> float:
    with evaluating(masked), evaluating(compact), torch.no_grad():
        try:
            pairs = zip(tensors(masked(*batch)), tensors(compact(*batch)), strict=True)
            errors = [_apart(a, b) for a, b in pairs]
        except (RuntimeError, IndexError, ValueError) as error:
            line = str(error).strip().split("\n")[0]
            raise CompactionError(
                f"The compacted network cannot run: {type(error).__name__}: {line}. Nothing was "
                "changed."
            ) from error
    if not errors:
        raise CompactionError("The network returns no tensor; there is nothing to compare.")
    return _worst(errors)


def tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors among what a network returns."""
    return (x for x in tree_leaves(output) if isinstance(x, Tensor))


def _apart(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        raise RuntimeError(
            f"its output has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
        )
    if expected.is_complex():
        expected, found = torch.view_as_real(expected), torch.view_as_real(found)
    if not expected.is_floating_point():
        return float((expected != found).any())
    same = (expected == found) | (expected.isnan() & found.isnan())
    finite = expected[expected.isfinite()]
    if not finite.numel():
        return math.nan if expected.numel() else 0.0
    error = torch.where(same, torch.zeros_like(expected), (expected - found).abs()).max()
    return float(error) / (float(finite.abs().max()) or 1.0)


def drawn(example: tuple[Any, ...], count: int, seed: int = 0) -> list[tuple[Any, ...]]:
    """Return the example and random inputs like it."""
    generator = torch.Generator().manual_seed(seed)

    def like(x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_floating_point() and x.layout == torch.strided:
            return torch.randn(x.shape, generator=generator).to(x)
        return x

    return [example, *(tree_map(like, example) for _ in range(count))]
