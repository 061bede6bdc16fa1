"""What a line of a run stands for: a ticket, a control, another way to go on."""

from __future__ import annotations

from ltpl.report.lines import Line

CONTROLS = ("reinit", "random_mask", "shuffled_mask")
"""Kinds of branches that take from a ticket what is said to make it one."""
APART = (*CONTROLS, "mask_transfer", "ticket_transfer", "reorder")
"""Kinds that answer questions of their own."""
WAYS = ("rewind", "lr_rewind", "finetune", "reinit", "continue")


def policy(line: Line) -> str | None:
    """Return how the line goes on after a pruning; None if that is not known.

    Where nothing is recorded, the name of a branch may say so, and what is pruned in rounds or at
    once is rewound, as in the papers.
    """
    if line.policy:
        return line.policy
    if line.does in WAYS:
        return line.does
    return "rewind" if line.does in (None, "one_shot", "ladder") else None


def is_compared(line: Line) -> bool:
    """Whether the line is a way to prune and retrain on its own, rather than a control."""
    return line.does not in APART and policy(line) not in (None, "reinit")


def is_ticket(line: Line) -> bool:
    """Whether its rounds start from rewound weights under a mask of the trained network."""
    return is_compared(line) and policy(line) == "rewind" and line.option("drawn_at") is None


def is_one_shot(line: Line) -> bool:
    """Whether each level was pruned from the dense network at once."""
    return line.does == "one_shot" or line.option("one_shot") is True
