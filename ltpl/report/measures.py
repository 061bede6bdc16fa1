"""`Measure`: what an expectation may speak of, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ltpl.report.score import are_shares
from ltpl.tickets.result import Result


@dataclass(frozen=True)
class Measure:
    """Something that every finished round may have measured.

    Args:
        of: Returns it; shares as they are stored.
        unit: `%` for shares, which are expected in per cent; nothing for counts.
        decimals: Digits shown after the point.
    """

    of: Callable[[Result], float | None]
    unit: str = ""
    decimals: int = 0

    def over(self, results: Sequence[Result], known: Sequence[Result]) -> dict[int, float]:
        """Return the measure by seed, in per cent where it is a share.

        Args:
            results: Those of one round.
            known: All results of the run: together they tell whether its accuracies are shares.
        """
        values = [value for each in known if (value := self.of(each)) is not None]
        factor = 100 if self.unit and are_shares(values) else 1
        found = {each.seed: self.of(each) for each in results}
        return {seed: factor * value for seed, value in found.items() if value is not None}


MEASURES = {
    "test_acc": Measure(lambda r: r.test_acc, "%", 2),
    "val_acc": Measure(lambda r: r.val_acc, "%", 2),
    "start_acc": Measure(lambda r: r.start_acc, "%", 2),
    "pruned_acc": Measure(lambda r: r.pruned_acc, "%", 2),
    "early_stop_step": Measure(lambda r: r.early_stop_step),
    "density": Measure(lambda r: r.density, "%", 2),
    "density_all": Measure(lambda r: r.density_all, "%", 2),
    "weights_left": Measure(lambda r: r.kept),
    "epochs": Measure(lambda r: r.epochs, decimals=1),
    "seconds": Measure(lambda r: r.seconds, decimals=1),
}
