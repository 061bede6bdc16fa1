"""`Score`: which measure a report compares, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ltpl.tickets.result import Result

_LOWER_IS_BETTER = ("loss", "err", "mse", "mae", "perplexity")


@dataclass(frozen=True)
class Score:
    """The measure by which tickets are compared with the dense network.

    Args:
        stage: `test`; `validation` where nothing was tested; `none` without any measure.
        key: Name of the metric; None for the accuracy that `Result` names.
        percent: Whether values in [0, 1] are shown as per cent.
        decimals: Digits shown after the point.
    """

    stage: str
    key: str | None = None
    percent: bool = False
    decimals: int = 2

    @property
    def is_accuracy(self) -> bool:
        """Whether this is the accuracy that `Result` names."""
        return self.key is None and self.stage != "none"

    @property
    def lower_is_better(self) -> bool:
        """Whether less is better: losses and errors."""
        return self.key is not None and any(k in self.key.lower() for k in _LOWER_IS_BETTER)

    @property
    def unit(self) -> str:
        """What stands behind a value."""
        return " %" if self.percent else ""

    @property
    def difference_unit(self) -> str:
        """What stands behind a difference: percentage points, where values are per cent."""
        return " pp" if self.percent else ""

    def name(self, stage: str | None = None) -> str:
        """Return how the measure is called, such as `test accuracy`.

        Args:
            stage: The stage meant; that of the score if not given.
        """
        stage = stage or self.stage
        if self.key is None:
            return f"{stage} accuracy"
        return f"{stage} {_bare(self.key).replace('_', ' ')}"

    def of(self, result: Result) -> float | None:
        """Return what is compared, as it is shown."""
        if self.stage == "validation":
            return self.validation(result)
        value = result.test_acc if self.key is None else result.test.get(self.key)
        return self._shown(value) if self.stage == "test" else None

    def validation(self, result: Result) -> float | None:
        """Return the same measure on validation data, for losses where the loss was lowest."""
        if self.stage == "none":
            return None
        if self.key is None:
            return self._shown(result.val_acc)
        return self._shown(_counterpart(result.early_stop or result.end, self.key))

    def start(self, result: Result) -> float | None:
        """Return the same measure on validation data, pruned and not yet retrained."""
        return self._before(result.start_acc, result.start)

    def pruned(self, result: Result) -> float | None:
        """Return the same of the mask over the trained weights that it was drawn from."""
        return self._before(result.pruned_acc, result.pruned)

    def _before(self, accuracy: float | None, metrics: Mapping[str, float]) -> float | None:
        if self.stage == "none":
            return None
        if self.key is not None:
            return self._shown(_counterpart(metrics, self.key))
        return self._shown(_counterpart(metrics, "acc") if accuracy is None else accuracy)

    def _shown(self, value: float | None) -> float | None:
        return 100 * value if value is not None and self.percent else value


def choose(results: Sequence[Result]) -> Score:
    """Return what can be compared: test accuracy, else test loss, else the same on validation.

    Args:
        results: All finished rounds that the report speaks of.
    """
    stages = (
        ("test", [r.test_acc for r in results], [r.test for r in results]),
        ("validation", [r.val_acc for r in results], [r.early_stop or r.end for r in results]),
    )
    for stage, accuracies, metrics in stages:
        if known := [a for a in accuracies if a is not None]:
            return Score(stage, percent=are_shares(known))
        if names := [name for metric in metrics for name in metric]:
            key = next((n for n in names if "loss" in n.lower()), names[0])
            return Score(stage, key, decimals=_decimals(m[key] for m in metrics if key in m))
    return Score("none")


def are_shares(accuracies: Iterable[float]) -> bool:
    """Return whether accuracies are shares in [0, 1], rather than per cent already."""
    return all(a <= 1 for a in accuracies if math.isfinite(a))


def _bare(key: str) -> str:
    """Return a metric's name without its stage: `loss` for `test/loss`."""
    for stage in ("test", "validation", "valid", "val"):
        for mark in "/_":
            key = key.removeprefix(stage + mark)
    return key


def _counterpart(metrics: Mapping[str, float], key: str) -> float | None:
    """Return the metric of another stage that has the same bare name, or contains it."""
    bare = _bare(key).lower()
    same = [v for k, v in metrics.items() if _bare(k).lower() == bare]
    alike = [v for k, v in metrics.items() if bare in k.lower()]
    return next(iter(same + alike), None)


def _decimals(values: Iterable[float]) -> int:
    """Return digits after the point that leave about four significant ones."""
    sizes = sorted(abs(v) for v in values if math.isfinite(v) and v)
    if not sizes:
        return 4
    return min(8, max(0, 3 - math.floor(math.log10(sizes[len(sizes) // 2]))))
