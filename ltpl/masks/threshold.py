"""Keep exactly the k highest scores of a whole network, in two passes and no sort.

A random sample brackets the k-th score; one pass counts what lies above the bracket and collects
the few scores inside it; one pass writes the mask. Scores are computed in pieces that fit the
cache, so no second copy of the weights is made, and no operation meets 2^31 elements at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL = 1 << 15
SPREAD = 4.0


@dataclass(frozen=True)
class Scores:
    """The scores of one parameter, computed piece by piece.

    Args:
        name: The parameter's name, for messages.
        inputs: Flat tensors of equal length that the scores are computed from.
        score: Turns slices of `inputs` into scores, element by element.
        alive: Flat booleans: which weights still live. The dead rank below everything.
        dtype: What to rank in. bfloat16 knows too few magnitudes to hit a target, fp32 does.
    """

    name: str
    inputs: tuple[Tensor, ...]
    score: Callable[..., Tensor]
    alive: Tensor | None = None
    dtype: torch.dtype = torch.float32

    @property
    def total(self) -> int:
        """How many weights there are, dead ones included."""
        return self.inputs[0].numel()

    @property
    def live(self) -> int:
        """How many weights still live."""
        return self.total if self.alive is None else int(self.alive.count_nonzero())

    def at(self, where: slice | Tensor) -> Tensor:
        """Return the scores at some positions, checked to be finite."""
        scores = self.score(*(tensor[where].to(self.dtype) for tensor in self.inputs))
        low, high = scores.aminmax()
        if not (torch.isfinite(low) and torch.isfinite(high)):
            bad = int((~torch.isfinite(scores)).count_nonzero())
            raise ValueError(
                f"{self.name!r}: {bad} scores are NaN or infinite; scores must be finite "
                "(did training diverge, or is the criterion undefined here?)."
            )
        if self.alive is None:
            return scores
        return scores.masked_fill(~self.alive[where], -math.inf)

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the scores in order, one cache-sized piece at a time."""
        step = 1 << (20 if self.inputs[0].device.type == "cpu" else 25)
        for start in range(0, self.total, step):
            where = slice(start, min(start + step, self.total))
            yield where, self.at(where)


def keep_highest(layers: Sequence[Scores], keep: int) -> list[Tensor]:
    """Return flat boolean tensors that keep exactly the `keep` highest scores over all `layers`.

    Of equal scores the first in order of position is kept, so the result is the same on every run,
    rank and device. Ranking is done in fp32.

    Args:
        layers: The parameters to rank together.
        keep: How many weights stay; at most as many as live.

    Example:
        >>> w = torch.tensor([3.0, -1.0, 2.0, 2.0])
        >>> keep_highest([Scores("w", (w,), torch.abs)], keep=2)
        [tensor([ True, False,  True, False])]
    """
    masks = [torch.zeros(x.total, dtype=torch.bool, device=x.inputs[0].device) for x in layers]
    if keep == 0:
        return masks
    threshold, ties_kept, ties = _threshold(layers, keep)
    for layer, mask in zip(layers, masks, strict=True):
        for where, scores in layer.pieces():
            if ties_kept == ties:
                torch.ge(scores, threshold, out=mask[where])
                continue
            torch.gt(scores, threshold, out=mask[where])
            tied = scores == threshold
            count = int(tied.count_nonzero())
            if 0 < count <= ties_kept:
                mask[where] |= tied
            elif count and ties_kept:
                mask[where] |= tied & (tied.cumsum(0) <= ties_kept)
            ties_kept -= min(count, ties_kept)
            ties -= count
    return masks


def _threshold(layers: Sequence[Scores], keep: int) -> tuple[float, int, int]:
    """Return the `keep`-th highest score, how many of its equals stay, and how many it has."""
    total = sum(layer.total for layer in layers)
    if total <= SMALL:
        device = layers[0].inputs[0].device
        return _exact(torch.cat([s.to(device) for x in layers for _, s in x.pieces()]), keep)
    sample = _sample(layers, total)
    spread = SPREAD
    while True:
        low, high = _bracket(sample, keep / total, spread)
        above, at_high, inside = _count(layers, low, high)
        between = sum(piece.numel() for piece in inside)
        if above < keep <= above + at_high:
            return high, keep - above, at_high
        wanted = keep - above - at_high
        if 0 < wanted <= between:
            if between <= max(SMALL, total // 8):
                values = torch.cat([piece.to(inside[0].device) for piece in inside])
                return _exact(values, wanted)
            pieces = [Scores("", (x,), torch.positive, dtype=x.dtype) for x in inside if len(x)]
            return _threshold(pieces, wanted)
        if wanted > between and low < high:
            at_low = _count(layers, low, low)[1]
            if wanted <= between + at_low:
                return low, wanted - between, at_low
        spread *= 8


def _exact(scores: Tensor, keep: int) -> tuple[float, int, int]:
    threshold = float(scores.kthvalue(scores.numel() - keep + 1).values)
    above = int((scores > threshold).count_nonzero())
    return threshold, keep - above, int((scores == threshold).count_nonzero())


def _sample(layers: Sequence[Scores], total: int) -> Tensor:
    """Return sorted scores at random positions; a fixed private seed, so every rank agrees."""
    generator = torch.Generator().manual_seed(0)
    size = int(total ** (2 / 3))
    positions = torch.randint(total, (size,), generator=generator).sort().values
    found, start = [], 0
    for layer in layers:
        first, last = torch.searchsorted(positions, torch.tensor([start, start + layer.total]))
        if last > first:
            index = positions[int(first) : int(last)] - start
            found.append(layer.at(index.to(layer.inputs[0].device)).cpu())
        start += layer.total
    return torch.cat(found).sort().values


def _bracket(sample: Tensor, share: float, spread: float) -> tuple[float, float]:
    """Return two scores between which the threshold lies, `spread` standard errors to each side."""
    size = sample.numel()
    rank = size * (1 - share)
    margin = spread * math.sqrt(size * share * (1 - share)) + spread
    low, high = math.floor(rank - margin), math.ceil(rank + margin)
    return (
        float(sample[low]) if low >= 0 else -math.inf,
        float(sample[high]) if high < size else math.inf,
    )


def _count(layers: Sequence[Scores], low: float, high: float) -> tuple[int, int, list[Tensor]]:
    """Return how many scores lie above `high`, how many equal it, and those strictly inside."""
    above = at_least = 0
    inside = []
    for layer in layers:
        for _, scores in layer.pieces():
            reaching = scores >= high
            above += int((scores > high).count_nonzero())
            at_least += int(reaching.count_nonzero())
            if low < high:
                inside.append(scores[(scores > low) ^ reaching])
    return above, at_least - above, inside
