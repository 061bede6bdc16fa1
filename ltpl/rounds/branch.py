"""`Branch`: what a control or variant over finished rounds is."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace

from ltpl.masks.errors import check_folder_name, check_types, unknown
from ltpl.rounds.keeping import EARLY_BIRD
from ltpl.rounds.plan import Plan, numbers
from ltpl.tickets.step import Step

KINDS = {
    "retrain": "the same tickets, with whatever options are changed",
    "rewind": "the same masks, back to the rewinding point",
    "lr_rewind": "the same masks on the trained weights, with the schedule of the rewinding point",
    "finetune": "the same masks on the trained weights, at the last learning rate",
    "reinit": "the same masks over new initial weights",
    "random_mask": "as many weights, chosen at random",
    "shuffled_mask": "the masks, shuffled inside each layer",
    "one_shot": "the dense network pruned at once to each density",
    "ladder": "rounds of its own from the dense network, each pruned from the one before",
    "reorder": "the same tickets, trained with the data in another order",
    "mask_transfer": "the masks on other data, over its own initial weights",
    "ticket_transfer": "masks and starting weights on other data, with a new head",
}
"""What a branch can be."""
KNOBS = {  # options that belong to some kinds alone
    "counts": ("random_mask",),
    "head": ("mask_transfer", "ticket_transfer"),
    "densities": ("ladder",),
    "one_shot": ("ladder",),
    "drawn_at": ("ladder", "one_shot"),
    "points": ("reorder",),
}
OWN_MASKS = ("ladder", "one_shot")
WITH_DENSE = ("retrain", "reorder")


@dataclass(frozen=True)
class Branch:
    """Controls and variants over finished rounds of a run.

    Args:
        name: Name of the branch, and its kind where it is the name of one.
        kind: `retrain`, `rewind`, `lr_rewind`, `finetune`, `reinit`, `random_mask`,
            `shuffled_mask`, `one_shot`, `ladder`, `reorder`, `mask_transfer` or `ticket_transfer`.
        levels: Which rounds: `5`, `3-7` or `1,3,7`; all that are finished, without the dense one,
            if not given.
        seeds: Which replicates; all of the run if not given.
        of: Another branch, whose rounds are used instead of those of the main line.
        counts: Whether a random mask has as many weights in each `layer`, or only in all, `global`.
        draw: Number of a random draw, to have several.
        head: Globs of the parameters that a transfer starts anew; the output layer if not given.
        densities: Shares of the weights that a ladder keeps; as in the run if not given.
        one_shot: Whether a ladder prunes each level from the dense network.
        drawn_at: Prune the dense network as it was then, `10ep` or `500it`, not at the end;
            `early_bird`: when the early-bird rule of the run has found its ticket.
        points: How many points of the line between both trainings of a `reorder` are measured.
        save_every_n_steps: Checkpoint every n steps inside epochs too.
        report: Whether to write the run's report page at the end.
        quiet: Whether to print nothing but errors.
    """

    name: str
    kind: str | None = None
    levels: str | int | None = None
    seeds: str | int | None = None
    of: str | None = None
    counts: str = "global"
    draw: int = 0
    head: str | None = None
    densities: list[float] | None = None
    one_shot: bool = False
    drawn_at: str | None = None
    points: int = 31
    save_every_n_steps: int | None = None
    report: bool = True
    quiet: bool = False

    def __post_init__(self) -> None:
        check_types(Branch, vars(self))
        check_folder_name("name", self.name)
        if self.kind is None and self.name not in KINDS:
            if near := difflib.get_close_matches(self.name, KINDS, n=1, cutoff=0.75):
                raise ValueError(
                    f"name={self.name!r}: did you mean {near[0]!r}? Say kind={near[0]}, or "
                    "kind=retrain to train the same tickets with other options."
                )
            object.__setattr__(self, "kind", "retrain")
        kind = self.kind or self.name
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
        object.__setattr__(self, "kind", kind)
        if self.counts not in ("layer", "global"):
            raise unknown("counts", self.counts, ["layer", "global"])
        numbers(self.levels, "levels")
        numbers(self.seeds, "seeds")
        for option, kinds in KNOBS.items():
            if self.given(option) and kind not in kinds:
                raise ValueError(f"{option} belongs to kind={' or '.join(kinds)}, not to {kind}.")
        if self.of is not None and kind in OWN_MASKS:
            raise ValueError(f"of={self.of!r}: a branch of kind {kind} draws masks of its own.")
        if self.drawn_at is not None and not (self.one_shot or kind == "one_shot"):
            raise ValueError(
                f"drawn_at={self.drawn_at!r}: only a ladder with one_shot=true, or kind=one_shot, "
                "prunes an early network."
            )
        if self.drawn_at not in (None, EARLY_BIRD):
            Step.parse(str(self.drawn_at), "drawn_at")
        if not 2 <= self.points <= 1001:
            raise ValueError(f"points={self.points}: give 2 to 1001.")

    def given(self, option: str) -> bool:
        """Whether an option is another than by default."""
        default = next(f.default for f in fields(Branch) if f.name == option)
        return bool(getattr(self, option) != default)

    def plan(self, plan: Plan, levels: int) -> Plan:
        """Return how the branch prunes, which begins with how its run does.

        Args:
            plan: Of the run.
            levels: How many levels that has.
        """
        if self.kind == "one_shot":
            return replace(plan, one_shot=True)
        if self.kind != "ladder":
            return plan
        densities = self.densities or plan.densities
        deep = None if densities else max(numbers(self.levels, "levels"), default=levels) or None
        return replace(plan, densities=densities, one_shot=self.one_shot, levels=deep)
