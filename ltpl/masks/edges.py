"""Edges of a graph: which two directions are one edge, what an edge is worth, which ones stay."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

AT_ONCE = 2**14  # edges whose features are compared at once


@dataclass(frozen=True)
class Edges:
    """The undirected edges of a graph: both directions are one edge, a self-loop is none.

    An edge without its reverse is one as well, and so are several from one node to another.

    Args:
        index: Every edge as the graph has it: from the nodes in the first row to those in the
            second.
        ends: The two nodes of each undirected edge, the smaller one first, in ascending order.
        place: For each edge of `index` the undirected edge that it belongs to; -1: a self-loop.

    Example:
        >>> path = Edges.of(torch.tensor([[0, 1, 2, 1], [1, 0, 2, 2]]))
        >>> path.ends.tolist(), path.place.tolist()
        ([[0, 1], [1, 2]], [0, 0, -1, 1])
    """

    index: Tensor
    ends: Tensor
    place: Tensor

    @classmethod
    def of(cls, index: Tensor) -> Edges:
        """Return the edges of a graph.

        Args:
            index: Its `edge_index`, which is copied.

        Raises:
            ValueError: If it has another shape or holds no whole numbers.
        """
        if index.dim() != 2 or len(index) != 2 or index.dtype != torch.int64:
            raise ValueError(
                f"edge_index is {index.dtype} {tuple(index.shape)}: two rows of int64 are needed."
            )
        index = index.clone()
        low, high = index.amin(0), index.amax(0)
        proper = low != high
        nodes = int(high.max()) + 1 if len(high) else 1
        keys, inverse = torch.unique(low[proper] * nodes + high[proper], return_inverse=True)
        place = torch.full_like(low, -1)
        place[proper] = inverse
        return cls(index, torch.stack([keys // nodes, keys % nodes]), place)

    @property
    def total(self) -> int:
        """Number of undirected edges."""
        return self.ends.shape[1]

    def all(self) -> Tensor:
        """Return the mask that keeps every edge."""
        return torch.ones(self.total, dtype=torch.bool, device=self.ends.device)

    def positions(self, keep: Tensor) -> Tensor:
        """Return where in `index` the edges of a mask are, in order, and after them all self-loops.

        Args:
            keep: One bool for each undirected edge.
        """
        proper = self.place >= 0
        alive = proper.clone()
        alive[proper] = keep[self.place[proper]]
        return torch.cat([alive.nonzero().flatten(), (~proper).nonzero().flatten()])

    def to(self, device: torch.device) -> Edges:
        """Return the same edges on a device."""
        return Edges(self.index.to(device), self.ends.to(device), self.place.to(device))


def strongest(scores: Tensor, keep: Tensor, number: int, order: Tensor | None = None) -> Tensor:
    """Return a mask of exactly so many edges: those of the highest scores.

    Args:
        scores: What each edge is worth.
        keep: Which edges are left to choose from.
        number: How many stay.
        order: Of edges of equal score, those that are low in it stay; the first if not given.

    Raises:
        ValueError: If a score is no number.

    Example:
        >>> strongest(torch.tensor([1.0, 3.0, 1.0, 9.0]), torch.tensor([1, 1, 1, 0]).bool(), 2)
        tensor([ True,  True, False, False])
    """
    left = keep.nonzero().flatten()
    if order is not None:
        left = left[order[left].argsort()]
    among = scores[left]
    if among.is_floating_point() and among.isnan().any():
        raise ValueError("Scores of edges are not numbers (nan): has training diverged?")
    best = among.argsort(descending=True, stable=True)[:number]
    stays = torch.zeros_like(keep)
    stays[left[best]] = True
    return stays


def by_chance(total: int, *seeds: object) -> Tensor:
    """Return the score of each edge in a random order; masks from one order are nested.

    Args:
        total: Number of edges.
        seeds: What the order depends on.
    """
    seed = int.from_bytes(hashlib.sha256(repr(seeds).encode()).digest()[:4], "big")
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))


def by_degree(ends: Tensor, keep: Tensor) -> Tensor:
    """Return minus the product of the degrees of both ends, counted over the edges that are kept.

    The lowest are edges between hubs: those with the smallest weight, 1 / sqrt(product), in the
    normalised adjacency of a GCN (self-loops left out).

    Args:
        ends: The two nodes of each edge.
        keep: Which edges are left.
    """
    nodes = int(ends.max()) + 1 if ends.numel() else 0
    degree = torch.bincount(ends[:, keep].flatten(), minlength=nodes)
    return -(degree[ends[0]] * degree[ends[1]])


def by_features(x: object, ends: Tensor) -> Tensor:
    """Return the share of features that both ends have among those that one of them has (Jaccard).

    Args:
        x: Features of the nodes, dense or sparse; a node has a feature where it is not zero.
        ends: The two nodes of each edge.

    Raises:
        ValueError: If there are none, or they tell no edges apart.
    """
    scores = _jaccard(x, ends) if isinstance(x, Tensor) else torch.zeros(ends.shape[1])
    if len(scores) and (scores == scores[0]).all():
        raise ValueError(
            "criterion='jaccard' compares which features x of the ends are not zero, and all edges "
            "of this graph are equal in that. Use criterion='random' or 'degree'."
        )
    return scores


def _jaccard(x: Tensor, ends: Tensor) -> Tensor:
    has = (x if x.layout == torch.strided else x.to_dense()) != 0
    found = [torch.empty(0, device=ends.device)]
    for start in range(0, ends.shape[1], AT_ONCE):
        one, other = ends[:, start : start + AT_ONCE]
        both, either = (has[one] & has[other]).sum(1), (has[one] | has[other]).sum(1)
        found.append(both / either.clamp(min=1))
    return torch.cat(found)


def homophily(labels: Tensor, ends: Tensor, keep: Tensor) -> float | None:
    """Return the share of kept edges whose ends have the same label.

    Args:
        labels: The class of each node; below 0: unknown, and its edges do not count.
        ends: The two nodes of each edge.
        keep: Which edges are kept.

    Returns:
        The share; None if no edge counts.
    """
    one, other = labels[ends[0, keep]], labels[ends[1, keep]]
    known = (one >= 0) & (other >= 0)
    return float((one == other)[known].float().mean()) if known.any() else None
