"""What `EdgePruning` takes over from the round before."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ltpl.masks.edges import Edges, by_chance, strongest
from ltpl.tickets.edges import EDGES, EdgeTicket
from ltpl.tickets.lineage import Lineage

CONTROL = "random_edges"  # the branch with as many edges, chosen at random


def edges_before(folder: Path) -> EdgeTicket:
    """Return the edges that a finished round has kept for the next.

    Args:
        folder: Folder of the round.

    Raises:
        ValueError: If it has none.
    """
    if not (folder / EDGES).is_file():
        raise ValueError(
            f"{folder / EDGES} is missing, and the next round starts from the edges in it: "
            "EdgePruning has to be there from the dense round on."
        )
    return EdgeTicket.load(folder / EDGES)


def edges_of(lineage: Lineage, before: EdgeTicket, edges: Edges, seed: int) -> Tensor:
    """Return which edges a round has: those that were kept for it; in the control, as many others.

    Args:
        lineage: The round.
        before: What the round before has kept.
        edges: The graph.
        seed: Seed of the control, whose graphs are nested.

    Raises:
        ValueError: If the ticket is of another graph.
    """
    if not torch.equal(before.edges.ends, edges.ends.cpu()):
        raise ValueError(
            f"{lineage.previous}/{EDGES} is of another graph: {before.total:,} undirected edges, "
            f"and this one has {edges.total:,}. Give the data that the run was made with."
        )
    if lineage.branch != CONTROL:
        return before.keep
    order = by_chance(edges.total, CONTROL, seed, lineage.seed)
    return strongest(order, torch.ones_like(before.keep), before.kept)
