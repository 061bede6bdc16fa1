"""The table of a report as a CSV file: plain numbers, for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from ltpl.report.spread import Spread
from ltpl.report.tables import Row


def as_csv(table: Sequence[Row]) -> str:
    """Return the table with plain numbers: per cent where people read per cent, no separators."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV)
    for r in table:
        cells = [*_sizes(r), *_measures(r), *_living(r), *_pairs(r)]
        writer.writerow([r.run, r.branch or "", r.round, *cells])
    return file.getvalue()


_CSV = (
    *("run", "branch", "round", "density_percent", "density_all_percent", "weights_left", "seeds"),
    *("measure", "score", "score_std", "validation", "validation_std"),
    *("difference_to_dense", "difference_std", "early_stop_step", "before_retraining", "seconds"),
    *("live_inputs", "inputs", "live_paths", "seeds_with_dead_layers"),
    *("difference_low", "difference_high", "difference_n"),
    *("ticket_minus_branch", "ticket_minus_branch_std", "ticket_minus_branch_low"),
    *("ticket_minus_branch_high", "ticket_minus_branch_n", "pruned_as_trained", "epochs"),
)


def _sizes(r: Row) -> list[str]:
    whole = None if math.isnan(r.density_all) else 100 * r.density_all
    return [plain_number(100 * r.density), plain_number(whole), str(r.kept), str(r.seeds)]


def _living(r: Row) -> list[str]:
    return [*map(plain_number, (r.live_inputs, r.inputs, r.live_paths)), str(r.dead)]


def _measures(r: Row) -> list[str]:
    spreads = (r.score, r.validation, r.difference)
    cells = [number for spread in spreads for number in numbers(spread)[:2]]
    means = [numbers(spread)[0] for spread in (r.early_stop_step, r.start)]
    return [r.measure.name() + r.measure.unit, *cells, *means, plain_number(r.seconds or None)]


def _pairs(r: Row) -> list[str]:
    pairs = [*numbers(r.difference)[2:], *numbers(r.ticket_minus_branch)]
    return [*pairs, numbers(r.pruned)[0], plain_number(r.epochs)]


def numbers(spread: Spread | None) -> list[str]:
    """Return mean, standard deviation, interval and n, as plain numbers; empty if not known."""
    if spread is None:
        return [""] * 5
    ends = spread.interval() or (None, None)
    return [*map(plain_number, (spread.mean, spread.std, *ends)), str(spread.n)]


def plain_number(value: float | None) -> str:
    """Return a number for a CSV file; nothing if it is not known."""
    return "" if value is None else f"{value:.8g}"
