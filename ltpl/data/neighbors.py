"""Mini-batches of a graph: some of its training nodes, with a sample of their neighbours."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from ltpl.data.options import shown, whole
from ltpl.data.pyg import of_pyg


def drawable(neighbors: Sequence[int]) -> list[int]:
    """Return how many neighbours are drawn at each step, if that is possible.

    Args:
        neighbors: A number for each layer of the network; -1 for all.

    Raises:
        ValueError: If they are no such numbers, or what draws them is not installed.
    """
    several = isinstance(neighbors, Sequence) and not isinstance(neighbors, (str, bytes))
    if not several or not neighbors or any(number == 0 for number in neighbors):
        raise ValueError(
            f"neighbors={shown(neighbors)}: a number for each layer is wanted, such as [10, 10]; "
            "-1 for all neighbours."
        )
    found = [whole("neighbors", number, -1) for number in neighbors]
    known = of_pyg("typing")
    if not (known.WITH_PYG_LIB or known.WITH_TORCH_SPARSE):
        raise ValueError(
            f"neighbors={found}: torch-geometric draws neighbours with pyg-lib or torch-sparse; "
            "neither is installed. Install one for your torch, see https://data.pyg.org/whl, or "
            "leave neighbors out to train on the whole graph."
        )
    return found


def neighbor_loader(graph: Any, neighbors: Sequence[int], batch_size: int) -> DataLoader[Any]:
    """Return PyG's `NeighborLoader` over the training nodes, in a new order each epoch.

    Sparse features come dense: of a CSR tensor no rows can be chosen.

    Args:
        graph: The graph; it stays as it is.
        neighbors: How many are drawn at each step; -1 for all.
        batch_size: Training nodes in a mini-batch.
    """
    here = copy.copy(graph).to("cpu")
    if here.x.layout != torch.strided:
        here.x = here.x.to_dense()
    loader: DataLoader[Any] = of_pyg("loader").NeighborLoader(
        here,
        num_neighbors=list(neighbors),
        input_nodes=here.train_mask,
        batch_size=batch_size,
        shuffle=True,
    )
    return loader
