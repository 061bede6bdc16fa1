"""Keep exactly the k highest scores of a whole network, in two passes and no sort.

A random sample brackets the k-th score; one pass counts what lies above the bracket and collects
the few scores inside it; one pass writes the mask. Scores are computed in pieces that fit the
cache, so no second copy of the weights is made, and no operation meets 2^31 elements at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALL = 1 << 15
FEW = 1 << 22
SPREAD = 3.0


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
        if not all(map(math.isfinite, map(float, scores.aminmax()))):
            bad = int((~torch.isfinite(scores)).count_nonzero())
            raise ValueError(
                f"{self.name!r}: {bad} scores are NaN or infinite; scores must be finite "
                "(did training diverge, or is the criterion undefined here?)."
            )
        if self.alive is None:
            return scores
        return scores.masked_fill(~self.alive[where], -math.inf)

    def pieces(self) -> Iterator[tuple[slice, Any]]:
        """Yield the scores in order, one cache-sized piece at a time, as `_array` has them."""
        step = 1 << (16 if self.inputs[0].device.type == "cpu" else 25)
        for start in range(0, self.total, step):
            where = slice(start, min(start + step, self.total))
            yield where, _array(self.at(where))


class Finished(Scores):
    """Scores that are computed already: few enough to be kept until the mask is written."""

    def at(self, where: slice | Tensor) -> Tensor:
        """Return the scores at some positions."""
        return self.inputs[0][where]


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
    if sum(layer.total for layer in layers) <= FEW:
        layers = [Finished(x.name, (x.at(slice(None)),), x.score, dtype=x.dtype) for x in layers]
    threshold, ties_kept, ties = _threshold(layers, keep)
    for layer, mask in zip(layers, masks, strict=True):
        kept = _array(mask)
        for where, scores in layer.pieces():
            if ties_kept in (0, ties):
                here = np if isinstance(scores, np.ndarray) else torch
                compare: Any = here.greater_equal if ties_kept else here.greater
                compare(scores, threshold, out=kept[where])
                continue
            tied = scores == threshold
            kept[where] = (scores > threshold) | (tied & (tied.cumsum(0) <= ties_kept))
            count = _true(tied)
            ties_kept -= min(count, ties_kept)
            ties -= count
    return masks


def _array(values: Tensor) -> Any:
    """Return a NumPy view on the CPU, where its comparisons take a third of torch's time."""
    return values.numpy() if values.device.type == "cpu" else values


def _tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(values)


def _true(condition: Any) -> int:
    return int(
        np.count_nonzero(condition) if isinstance(condition, np.ndarray) else condition.sum()
    )


def _threshold(layers: Sequence[Scores], keep: int) -> tuple[float, int, int]:
    """Return the `keep`-th highest score, how many of its equals stay, and how many it has."""
    total = sum(layer.total for layer in layers)
    device = layers[0].inputs[0].device
    if total <= SMALL:
        pieces = [_tensor(scores).to(device) for layer in layers for _, scores in layer.pieces()]
        return _exact(torch.cat(pieces), keep)
    sample = _sample(layers, total)
    spread = SPREAD
    while True:
        low, high = _bracket(sample, keep / total, spread)
        expected = float(((sample > low) & (sample < high)).float().mean()) * total
        at_least, inside = _count(layers, low, high, room=int(1.25 * expected) + SMALL)
        between = len(inside)
        if keep <= at_least:
            above = at_least - _equal(layers, high)
            if above < keep:
                return high, keep - above, at_least - above
        elif keep <= at_least + between:
            if between <= max(SMALL, total // 16):
                return _exact(inside, keep - at_least)
            rest = Scores("", (inside,), torch.positive, dtype=inside.dtype)
            return _threshold([rest], keep - at_least)
        elif low < high:
            at_low = _equal(layers, low)
            if keep <= at_least + between + at_low:
                return low, keep - at_least - between, at_low
        spread *= 8


def _exact(scores: Tensor, keep: int) -> tuple[float, int, int]:
    threshold = float(scores.kthvalue(scores.numel() - keep + 1).values)
    above = int((scores > threshold).count_nonzero())
    return threshold, keep - above, int((scores == threshold).count_nonzero())


def _sample(layers: Sequence[Scores], total: int) -> Tensor:
    """Return scores at positions spread at random; a fixed private seed, so every rank agrees."""
    generator = torch.Generator().manual_seed(0)
    size = int(total ** (2 / 3))
    stride = total // size
    positions = torch.randint(stride, (size,), generator=generator)
    positions += torch.arange(size).mul_(stride)
    found, start = [], 0
    for layer in layers:
        first, last = (-(-max(0, end - stride) // stride) for end in (start, start + layer.total))
        index = positions[first : last + 2] - start
        index = index[(index >= 0) & (index < layer.total)]
        if len(index):
            found.append(layer.at(index.to(layer.inputs[0].device)).cpu())
        start += layer.total
    return torch.cat(found)


def _bracket(sample: Tensor, share: float, spread: float) -> tuple[float, float]:
    """Return two scores between which the threshold lies, `spread` standard errors to each side."""
    size = sample.numel()
    rank = size * (1 - share)
    margin = spread * math.sqrt(size * share * (1 - share)) + spread
    low, high = math.floor(rank - margin), math.ceil(rank + margin)
    return (
        float(sample.kthvalue(low + 1).values) if low >= 0 else -math.inf,
        float(sample.kthvalue(high + 1).values) if high < size else math.inf,
    )


def _count(layers: Sequence[Scores], low: float, high: float, room: int) -> tuple[int, Tensor]:
    """Return how many scores reach `high`, and those strictly between `low` and `high`.

    They are gathered in one block with `room` for as many as expected: small arrays between the
    large ones of the pieces would leave the heap full of holes.
    """
    at_least = used = 0
    inside = torch.empty(room, dtype=layers[0].dtype, device=layers[0].inputs[0].device)
    for layer in layers:
        for _, scores in layer.pieces():
            reaching = scores >= high
            at_least += _true(reaching)
            if low < high:
                found = _tensor(scores[(scores > low) ^ reaching])
                if used + len(found) > len(inside):
                    more = inside.new_empty(used + len(found))
                    inside = torch.cat([inside[:used], more])
                inside[used : used + len(found)] = found
                used += len(found)
    return at_least, inside[:used]


def _equal(layers: Sequence[Scores], score: float) -> int:
    return sum(_true(scores == score) for layer in layers for _, scores in layer.pieces())
