"""The steps of any LightningModule over one whole graph: which of its edges they see."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor

from ltpl.callbacks.around import Around
from ltpl.masks.edges import Edges, homophily

STEPS = ("training_step", "validation_step", "test_step", "predict_step")
SAMPLED = ("n_id", "e_id", "input_id", "batch_size")  # what PyG's samplers leave in a batch


class GraphSteps:
    """Let the steps of a module get something else than the batch, until they are put back.

    Args:
        look: Called with a batch; what it gives is open while the step runs.
    """

    def __init__(self, look: Callable[[Any], AbstractContextManager[Any]]):
        self.look = look
        self._module: Any = None
        self._around: list[Around] = []

    def attach(self, pl_module: Any) -> None:
        """Wrap the steps of this module; its class stays as it is."""
        if self._module is pl_module:
            return
        self.detach()
        self._module = pl_module
        self._around = [Around(pl_module, name, self._with_fewer_edges) for name in STEPS]

    def _with_fewer_edges(
        self, step: Callable[..., Any], batch: Any, *rest: Any, **named: Any
    ) -> Any:
        with self.look(batch) as seen:
            return step(seen, *rest, **named)

    def detach(self) -> None:
        """Put the steps back."""
        for around in self._around:
            around.remove()
        self._module, self._around = None, []


def must_be_whole(batch: Any) -> None:
    """Refuse what is not one whole graph.

    Raises:
        ValueError: If the batch is not a graph of torch-geometric, or a sample of one.
    """
    wanted = (
        "give one whole graph a step, as GraphData of ltpl.data and PyG's "
        "LightningNodeData(loader='full') do"
    )
    index = getattr(batch, "edge_index", None)
    if not isinstance(index, Tensor) or not callable(getattr(batch, "edge_attrs", None)):
        raise ValueError(
            f"EdgePruning: a batch is a {type(batch).__name__}, not a torch_geometric Data with an "
            f"edge_index: {wanted}."
        )
    if found := [name for name in SAMPLED if name in batch]:
        raise ValueError(
            f"EdgePruning: a batch holds {found[0]}, so it is a sampled part of a graph: {wanted}."
        )


def must_be_one_batch(trainer: Any) -> None:
    """Refuse training on several batches an epoch.

    Raises:
        ValueError: If there are more than one.
    """
    if trainer.num_training_batches > 1:
        raise ValueError(
            f"EdgePruning: an epoch has {trainer.num_training_batches} batches; one whole graph, "
            "the only batch of an epoch, is needed."
        )


class OneGraph:
    """The one graph of a fit, with all of its edges or some."""

    def __init__(self) -> None:
        self.edges: Edges | None = None
        self.batch: Any = None
        self.measured: dict[str, float] = {}
        self._met: tuple[Tensor | None, int] = (None, -1)
        self._keep: Tensor | None = None
        self._positions = self._place = torch.empty(0, dtype=torch.int64)
        self._chosen: dict[str, tuple[Tensor, int, Tensor]] = {}

    def meet(self, batch: Any) -> Edges:
        """Return the edges of a graph, which is the same each time.

        Raises:
            ValueError: If it is not one whole graph, or another than before.
        """
        must_be_whole(batch)
        index, (known, version) = batch.edge_index, self._met
        if index is not known or not version == version_of(batch.edge_index) >= 0:
            if self.edges is None:
                self.edges = Edges.of(index)
            self.edges = self.edges.to(index.device)
            if not torch.equal(index, self.edges.index):
                raise ValueError(
                    f"EdgePruning: a batch is a graph of {index.shape[1]:,} edges, another than "
                    f"the first one of {self.edges.index.shape[1]:,}: one whole graph is needed, "
                    "the same in every batch, of validation and test too."
                )
            self._met = index, version_of(index)
        self.batch = batch
        assert self.edges is not None
        return self.edges

    def only(self, batch: Any, keep: Tensor) -> tuple[Any, Tensor]:
        """Return a shallow copy of the graph with some of its edges.

        Its tensors stay the same from step to step, for layers that remember them.

        Args:
            batch: The graph, which is not altered.
            keep: Which undirected edges it has.

        Returns:
            The copy, and the undirected edge of each of its edges; -1: self-loops, which come last.
        """
        assert self.edges is not None
        if keep is not self._keep:
            self._keep, self._chosen = keep, {}
            self._positions = self.edges.positions(keep)
            self._place = self.edges.place[self._positions]
            self.measured = self.measure(keep)
        seen = copy.copy(batch)
        if "x" not in batch and "num_nodes" not in batch:
            seen.num_nodes = batch.num_nodes  # PyG would count the nodes that edges lead to
        for name in batch.edge_attrs():
            if isinstance(value := batch[name], Tensor):
                seen[name] = self._of_kept(name, value, batch.__cat_dim__(name, value))
        return seen, self._place

    def _of_kept(self, name: str, value: Tensor, dim: int) -> Tensor:
        known, version, chosen = self._chosen.get(name, (None, -1, value))
        if known is value and version == version_of(value) >= 0:
            return chosen
        chosen = value.index_select(dim, self._positions)
        self._chosen[name] = value, version_of(value), chosen
        return chosen

    def measure(self, keep: Tensor) -> dict[str, float]:
        """Return what is logged of a mask over the edges."""
        assert self.edges is not None
        kept = int(keep.sum())
        values = {"edges/density": kept / max(1, self.edges.total), "edges/kept": float(kept)}
        labels = getattr(self.batch, "y", None)
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            return values
        if labels.numel() != self.batch.num_nodes:
            return values
        share = homophily(labels.flatten(), self.edges.ends, keep)
        return values if share is None else values | {"edges/homophily": share}

    def tell(self, epoch: int, keep: Tensor, after: Tensor) -> None:
        """Say what a pruning does.

        Args:
            epoch: How many epochs were trained.
            keep: Which edges were kept until now.
            after: Which are kept from now on.
        """
        before, then = self.measure(keep), self.measure(after)
        told = ""
        if "edges/homophily" in before and "edges/homophily" in then:
            told = f", homophily {before['edges/homophily']:.2f} -> {then['edges/homophily']:.2f}"
        rank_zero_info(
            f"EdgePruning: after {epoch} epochs {before['edges/kept']:,.0f} -> "
            f"{then['edges/kept']:,.0f} of the {len(after):,} undirected edges{told}"
        )


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place; -1 if torch does not count."""
    return -1 if tensor.is_inference() else tensor._version
