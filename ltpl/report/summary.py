"""One sentence a run: the sparsest level that is not below dense, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

from ltpl.report.decisions import tally, told
from ltpl.report.differences import Difference
from ltpl.report.lines import Run
from ltpl.report.spread import Spread
from ltpl.report.tables import Row
from ltpl.tickets.result import Result
from ltpl.tickets.step import Step

_ROUNDING = 1e-9  # what adding floats in another order may change


def sentence(run: Run, table: Sequence[Row]) -> str:
    """Return what the run found, as far as its results support it.

    The level it names is the sparsest whose mean score is not worse than that of the dense network
    with the same seeds. Whether that is more than chance, the interval says.

    Args:
        run: The run.
        table: Rows of the report.
    """
    measure = table[0].measure
    main = [row for row in table if row.run == run.name and row.branch is None]
    dense = [row for row in main if row.round == 0 and row.score]
    levels = [row for row in main if row.round > 0 and row.score]
    compared = [d for row in levels if (d := _to_dense(row))]
    if not (dense or levels):
        return f"No {measure.stage if measure.stage != 'none' else 'test'} score was recorded."
    if not dense:
        return "The dense network (round 0) has no result, so there is nothing to compare with."
    if not levels:
        score = f"{measure.name()} {_shown(dense[0].score, dense[0])}, n = {dense[0].seeds}"
        if run.branches:
            return f"The main line is the dense network alone: {score}. Its branches follow."
        return f"Only the dense network is finished so far: {score}."
    if not compared:
        return "No seed has both a pruned and a dense network, so there is nothing to compare."
    good = [d for d in compared if d.loss <= _ROUNDING]
    best = min(good, key=lambda d: d.density) if good else min(compared, key=lambda d: d.loss)
    better = best.spread.decided() and best.loss < 0
    said = told(best, f"the {ticket(run, best.round)}" if better else None)
    if len(compared) == 1:
        return f"{said}."
    caveat = "that is the sparsest level not below dense in the mean"
    if measure.lower_is_better:
        caveat = "that is the sparsest level not above dense in the mean"
    before = sum(d.density > best.density for d in compared)
    if not good:
        caveat = "no level is as good as dense in the mean, this one is nearest"
    elif worse := sum(d.loss > _ROUNDING for d in compared if d.density > best.density):
        caveat += f", though {worse} of the {before} denser ones {'is' if worse == 1 else 'are'}"
    return f"{said}; {caveat}. Over all {len(compared)} levels: {tally(compared)}."


def ticket(run: Run, number: int) -> str:
    """Return what the papers call a ticket that does as well as the dense network.

    `winning ticket` if it was rewound to initialisation, `matching ticket` if to a later step
    (Frankle et al., 2020), and `ticket` if its weights are not those of that
    step or the results do not say.
    """
    level = run.main.level(number)
    words = {_word(result) for result in level}
    return words.pop() if len(words) == 1 else "ticket"


def _word(result: Result) -> str:
    made_by = result.made_by
    if made_by.get("policy") != "rewind" or made_by.get("mask_1", "rewind") != "rewind":
        return "ticket"
    try:
        step = Step.parse(str(made_by.get("rewind")))
    except ValueError:
        return "ticket"
    return "winning ticket" if step.is_start else "matching ticket"


def _to_dense(row: Row) -> Difference | None:
    if row.difference is None:
        return None
    where = (row.round, row.density, row.measure)
    return Difference(row.run, row.line, "dense", *where, row.difference)


def _shown(spread: Spread | None, row: Row) -> str:
    if spread is None:
        return "nothing"
    return spread.text(row.measure.decimals, unit=row.measure.unit)
