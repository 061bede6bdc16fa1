"""`Measure`: what an expectation may speak of, and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ltpl.report.between import RAW, read
from ltpl.report.lines import Line, Run
from ltpl.report.score import are_shares
from ltpl.tickets.path import rise
from ltpl.tickets.result import Result, round_folder


@dataclass(frozen=True)
class Measure:
    """Something that every finished round may have measured.

    Args:
        of: Returns it from the result and the folder of a round; shares as they are stored.
        unit: `%` for shares, which are expected in per cent; `pp`; nothing for counts.
        decimals: Digits shown after the point.
    """

    of: Callable[[Result, Path], float | None]
    unit: str = ""
    decimals: int = 0

    def over(self, line: Line, number: int, run: Run) -> dict[int, float]:
        """Return the measure by seed, in per cent where it is a share.

        Args:
            line: What was measured.
            number: A round of it.
            run: Its run; all that is known of it together tells whether accuracies are shares.
        """
        factor = 1
        if self.unit == "%":
            values = (self._of(each, r) for each in run.lines for r in each.results)
            known = [value for value in values if value is not None]
            factor = 100 if are_shares(known) else 1
        found = {each.seed: self._of(line, each) for each in line.level(number)}
        return {seed: factor * value for seed, value in found.items() if value is not None}

    def _of(self, line: Line, result: Result) -> float | None:
        return self.of(result, round_folder(line.folder, result.seed, result.round))


def _instability(column: str) -> Callable[[Result, Path], float | None]:
    def of(_: Result, folder: Path) -> float | None:
        errors = read(folder).get(column)
        return None if errors is None else rise(errors)

    return of


MEASURES = {
    "test_acc": Measure(lambda r, _: r.test_acc, "%", 2),
    "val_acc": Measure(lambda r, _: r.val_acc, "%", 2),
    "start_acc": Measure(lambda r, _: r.start_acc, "%", 2),
    "pruned_acc": Measure(lambda r, _: r.pruned_acc, "%", 2),
    "early_stop_step": Measure(lambda r, _: r.early_stop_step),
    "density": Measure(lambda r, _: r.density, "%", 2),
    "density_all": Measure(lambda r, _: r.density_all, "%", 2),
    "weights_left": Measure(lambda r, _: r.kept),
    "epochs": Measure(lambda r, _: r.epochs, decimals=1),
    "seconds": Measure(lambda r, _: r.seconds, decimals=1),
    "instability": Measure(_instability("val_error"), "pp", 2),
    "raw_instability": Measure(_instability(f"{RAW}val_error"), "pp", 2),
}
