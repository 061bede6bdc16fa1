"""`EdgeTicket`: a graph and which of its edges are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltpl.masks.edges import Edges
from ltpl.masks.errors import check_types, checked
from ltpl.tickets.files import load_state, save_state

EDGES = "edges.safetensors"
KIND = "ltpl.edges/1"


@dataclass(frozen=True)
class EdgeTicket:
    """The edges of a graph, and which of them are kept.

    A round of a run writes the graph for the round after it: `round_03/edges.safetensors` is what
    round 4 trains on.

    Args:
        edges: All edges.
        keep: One bool for each undirected edge.
        made_by: What chose them: JSON values only.

    Example:
        >>> path = Edges.of(torch.tensor([[0, 1, 1, 2, 2], [1, 0, 2, 1, 2]]))
        >>> ticket = EdgeTicket(path, torch.tensor([False, True]))
        >>> ticket.kept, ticket.total, ticket.edge_index.tolist()
        (1, 2, [[1, 2, 2], [2, 1, 2]])
    """

    edges: Edges
    keep: Tensor
    made_by: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(EdgeTicket, vars(self))
        if self.keep.dtype != torch.bool or self.keep.shape != (self.edges.total,):
            raise ValueError(
                f"keep is {self.keep.dtype} {tuple(self.keep.shape)}: one bool for each of the "
                f"{self.edges.total:,} undirected edges is needed."
            )

    @property
    def kept(self) -> int:
        """Number of undirected edges that are kept."""
        return int(self.keep.sum())

    @property
    def total(self) -> int:
        """Number of undirected edges of the whole graph."""
        return self.edges.total

    @property
    def density(self) -> float:
        """Share of the undirected edges that is kept."""
        return self.kept / self.total if self.total else 1.0

    @property
    def edge_index(self) -> Tensor:
        """The pruned graph as training saw it: kept edges in both directions, then self-loops."""
        return self.edges.index[:, self.edges.positions(self.keep)]

    def save(self, path: str | Path) -> None:
        """Write the graph and what is kept of it, whole or not at all."""
        state = {
            "kept": self.kept,
            "total": self.total,
            "made_by": self.made_by,
            "edge_index": self.edges.index,
            "ends": self.edges.ends,
            "keep": self.keep,
        }
        save_state(path, state, KIND)

    @classmethod
    @checked
    def load(cls, path: str | Path) -> EdgeTicket:
        """Read a ticket; no code in the file is run.

        Args:
            path: The file, or the folder of a round.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is something else, cut short or changed.
        """
        file = Path(path, EDGES) if Path(path).is_dir() else Path(path)
        state = load_state(file, KIND)
        try:
            return cls(Edges.of(state["edge_index"]), state["keep"], state["made_by"])
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"{file} is no {KIND}: {error}.") from None
