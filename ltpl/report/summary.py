"""One sentence a run: how far it could be pruned and still test as well as the dense network."""

from __future__ import annotations

from collections.abc import Sequence

from ltpl.report.lines import Run
from ltpl.report.spread import Spread, per_cent
from ltpl.report.tables import Row
from ltpl.tickets.result import Result
from ltpl.tickets.step import Step

_ROUNDING = 1e-9  # what adding floats in another order may change


def sentence(run: Run, table: Sequence[Row]) -> str:
    """Return what the run found, as far as its results support it.

    The level it names is the sparsest whose mean score is not worse than that of the dense network
    with the same seeds.

    Args:
        run: The run.
        table: Rows of the report.
    """
    measure = table[0].measure
    main = [row for row in table if row.run == run.name and row.branch is None]
    dense = [row for row in main if row.round == 0 and row.score]
    levels = [row for row in main if row.round > 0 and row.score]
    compared = [row for row in levels if row.difference]
    name = "" if measure.is_accuracy else f"{measure.name()} "
    verb = "tests" if measure.stage == "test" else "validates"
    if not (dense or levels):
        return f"No {measure.stage if measure.stage != 'none' else 'test'} score was recorded."
    if not dense:
        return "The dense network (round 0) has no result, so there is nothing to compare with."
    if not levels:
        score = f"{measure.name()} {_shown(dense[0].score, dense[0])}{_seeds(dense[0])}"
        return f"Only the dense network is finished so far: {score}."
    if not compared:
        return "No seed has both a pruned and a dense network, so there is nothing to compare."
    good = [row for row in compared if _loss(row) <= _ROUNDING]
    best = min(good, key=lambda r: r.density) if good else min(compared, key=_loss)
    scores = f"{name}{_shown(best.score, best)} against {_shown(_same_seeds(run, best), best)}"
    if not good:
        return (
            f"At no level does the ticket {verb.removesuffix('s')} as well as the dense network; "
            f"nearest, with {per_cent(best.density)} % of the weights, is {scores}{_seeds(best)}."
        )
    worse = sum(_loss(row) > _ROUNDING for row in compared if row.density > best.density)
    before = sum(row.density > best.density for row in compared)
    caveat = f"; {worse} of the {before} denser levels fall below it" if worse else ""
    return (
        f"Down to {per_cent(best.density)} % of the weights the {ticket(run, best.round)} {verb} "
        f"as well as the dense network ({scores}{_seeds(best)}){caveat}."
    )


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


def _loss(row: Row) -> float:
    """Return by how much the level is worse than dense; not a number where a seed diverged."""
    assert row.difference is not None
    return row.difference.mean if row.measure.lower_is_better else -row.difference.mean


def _same_seeds(run: Run, row: Row) -> Spread | None:
    seeds = {r.seed for r in run.main.level(row.round)}
    return Spread.of(row.measure.of(r) for r in run.main.level(0) if r.seed in seeds)


def _shown(spread: Spread | None, row: Row) -> str:
    if spread is None:
        return "nothing"
    return spread.text(row.measure.decimals, unit=row.measure.unit)


def _seeds(row: Row) -> str:
    return f", {row.seeds} seed" + ("s" if row.seeds > 1 else "")
