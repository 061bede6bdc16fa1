"""`GraphData`: one graph, as the only batch of every epoch or in mini-batches."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from ltpl.data.neighbors import drawable, neighbor_loader
from ltpl.data.options import whole
from ltpl.data.resident import as_it_is


class GraphData(LightningDataModule):
    """One graph, with masks for its training, validation and test nodes; `setup` fills `graph`.

    `graph` is a `torch_geometric.data.Data` with `x`, `edge_index`, `y`, `train_mask`, `val_mask`
    and `test_mask`. It is brought to the device that trains once, and is the only batch of every
    epoch. With `neighbors` training goes over mini-batches instead; validation and test do not.

    Args:
        neighbors: How many neighbours are drawn at each step from a training node, one number for
            each layer of the network, -1 for all: `[10, 10]`. The whole graph if not given.
        batch_size: Training nodes in a mini-batch.

    Raises:
        ValueError: If an option is wrong, or what draws neighbours is not installed.
    """

    graph: Any = None

    def __init__(self, neighbors: list[int] | None = None, batch_size: int = 128):
        super().__init__()
        self.neighbors = None if neighbors is None else drawable(neighbors)
        self.batch_size = whole("batch_size", batch_size, 1)

    def load(self) -> Any:
        """Return the graph with its masks."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Load the graph; what was done to its edges since the first time stays done."""
        if self.graph is None:
            self.graph = self.load()

    @property
    def classes(self) -> int:
        """Number of classes, after `setup`."""
        return int(self.graph.y.max()) + 1

    @property
    def features(self) -> int:
        """Features of a node, after `setup`."""
        return int(self.graph.x.shape[1])

    def _whole(self) -> DataLoader[Any]:
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            if self.graph.y.device != device:
                self.graph.to(device)  # in place: a copy would miss what is done to the edges
        graphs: Any = [self.graph]
        return DataLoader(
            graphs,
            batch_size=None,
            # every process takes the whole; Lightning leaves a DistributedSampler as it is
            sampler=DistributedSampler(graphs, num_replicas=1, rank=0, shuffle=False),
            collate_fn=as_it_is,
            generator=torch.Generator(),  # an epoch draws a seed, not from the global state
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the graph, or mini-batches of it in a new order each epoch."""
        if self.neighbors is None:
            return self._whole()
        return neighbor_loader(self.graph, self.neighbors, self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the graph."""
        return self._whole()

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the graph."""
        return self._whole()

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the graph."""
        return self._whole()

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Return the graph on a device; where it is there already, that costs nothing."""
        if batch.y.device == device:
            return batch
        return super().transfer_batch_to_device(copy.copy(batch), device, dataloader_idx)
