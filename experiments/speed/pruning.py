"""Exact global magnitude pruning against torch's, and against one pass over the weights.

python -m experiments.speed.pruning
python -m experiments.speed.pruning --sizes 1 25 --repeats 9
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.prune import L1Unstructured, global_unstructured

from experiments.speed.ratios import Spread
from experiments.speed.turns import rounds
from ltpl.masks import Mask, prune

T = TypeVar("T")
AMOUNT = 0.2
SIZES = (1, 25, 100)
REPEATS = 5


@dataclass(frozen=True)
class Pruning:
    """What one size took, in milliseconds and in ratios of neighbours in time."""

    weights: int
    ltpl: Spread
    applied: Spread
    torch: Spread
    one_pass: Spread
    torch_over_ltpl: Spread
    torch_over_applied: Spread
    ltpl_over_pass: Spread
    disturbed: float

    def json(self) -> dict[str, Any]:
        return {k: v.json() if isinstance(v, Spread) else v for k, v in vars(self).items()}

    def row(self) -> tuple[str, ...]:
        return (
            f"{self.weights / 1e6:.1f} M",
            *(f"{x.median:,.1f}" for x in (self.one_pass, self.ltpl, self.applied, self.torch)),
            str(self.torch_over_ltpl),
            str(self.torch_over_applied),
            str(self.ltpl_over_pass),
            str(self.ltpl.n),
            f"{self.disturbed:.0%}",
        )


HEAD = (
    "weights",
    "one pass, ms",
    "`prune`, ms",
    "`prune` and `apply_`, ms",
    "`global_unstructured`, ms",
    "torch / `prune`",
    "torch / (`prune` and `apply_`)",
    "`prune` / one pass",
    "n",
    "others",
)


def network(millions: float) -> nn.Module:
    """Return about so many million weights in a 3x3 convolution and two matrices."""
    width = round((millions * 1e6 / 17) ** 0.5)
    model = nn.Sequential(
        nn.Conv2d(width, width, 3), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    )
    with torch.no_grad():
        for layer in model:
            layer.weight.normal_(std=layer.weight[0].numel() ** -0.5)
    return model


def one_pass(model: nn.Module) -> float:
    """Read every weight once, as plain torch does it."""
    with torch.no_grad():
        return sum(float(layer.weight.abs().sum()) for layer in model)


def prune_by_torch(model: nn.Module) -> None:
    """Prune as torch does: this replaces the parameters of `model`."""
    weights = [(layer, "weight") for layer in model]
    global_unstructured(weights, pruning_method=L1Unstructured, amount=AMOUNT)


def measure(millions: float, repeats: int) -> Pruning:
    """Time all of them in turn, `repeats` times over."""
    torch.manual_seed(0)
    model = network(millions)
    times = rounds(lambda: _once(model), repeats)
    applied = [a + b for a, b in zip(times["ltpl"], times["apply"], strict=True)]
    return Pruning(
        weights=sum(layer.weight.numel() for layer in model),
        ltpl=Spread.of(times["ltpl"]),
        applied=Spread.of(applied),
        torch=Spread.of(times["torch"]),
        one_pass=Spread.of(times["one_pass"]),
        torch_over_ltpl=Spread.of_ratios(times["torch"], times["ltpl"]),
        torch_over_applied=Spread.of_ratios(times["torch"], applied),
        ltpl_over_pass=Spread.of_ratios(times["ltpl"], times["one_pass"]),
        disturbed=round(max(times["disturbed"]), 3),
    )


def _once(model: nn.Module) -> dict[str, float]:
    theirs, ours = copy.deepcopy(model), copy.deepcopy(model)
    gc.collect()
    _, first = _timed(lambda: one_pass(model))
    mask, second = _timed(lambda: prune(model, AMOUNT))
    _, third = _timed(lambda: mask.apply_(ours))
    _, fourth = _timed(lambda: prune_by_torch(theirs))
    _must_agree(model, mask, theirs)
    return {"one_pass": first, "ltpl": second, "apply": third, "torch": fourth}


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what `work` returns, and its milliseconds."""
    start = time.perf_counter()
    result = work()
    return result, 1e3 * (time.perf_counter() - start)


def _must_agree(model: nn.Module, mask: Mask, theirs: nn.Module) -> None:
    """Stop if the two keep different numbers, or differ in more than the choice among equals."""
    masks = {f"{name}.weight": layer.weight_mask.bool() for name, layer in theirs.named_children()}
    assert mask.kept == sum(int(keep.count_nonzero()) for keep in masks.values())
    weights = dict(model.named_parameters())
    differing = [weights[n][keep != masks[n]].detach().abs() for n, keep in mask.items()]
    assert len(torch.cat(differing).unique()) <= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, help="in millions")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    print(" | ".join(HEAD))
    for size in options.sizes:
        print(" | ".join(measure(size, options.repeats).row()))


if __name__ == "__main__":
    main()
