"""`NodeClassifier`: a LightningModule around any graph network that returns logits of nodes."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from ltpl.models import Network
from ltpl.models.csr import Memory
from ltpl.modules.classifier import Classifier


class NodeClassifier(Classifier):
    """Classification of nodes; a batch is a whole graph, or a mini-batch of one.

    A whole graph is a `torch_geometric.data.Data` with `x`, `edge_index`, `y`, the masks
    `train_mask`, `val_mask` and `test_mask`, and `edge_weight` if edges have one. An epoch is one
    step, so set the trainer's `log_every_n_steps` to 1, or to 10 where time matters.

    Of the mini-batches of PyG's `NeighborLoader`, the nodes that it was asked for count, which are
    the first `batch_size`; the masks are not looked at.

    Args:
        network: The network, called with `x` and `edge_index`; it returns the logits of all nodes.
        optimizer: The optimiser; any torch class.
        lr_scheduler: The learning-rate schedule; any torch class, or `WarmupDrops`.
        options: What `Classifier` takes beside.
    """

    def __init__(
        self,
        network: Network | nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        **options: Any,
    ):
        super().__init__(network, optimizer, lr_scheduler, **options)
        self._places = {stage: Memory() for stage in ("train", "val", "test")}

    def forward(self, batch: Any) -> Tensor:
        """Return the logits of all nodes of a graph."""
        weight = getattr(batch, "edge_weight", None)
        given = {} if weight is None else {"edge_weight": weight}
        logits: Tensor = self.network(batch.x, batch.edge_index, **given)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss over the training nodes."""
        return self._learn(*self._marked(batch, "train"))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and metrics over the validation nodes."""
        self._evaluate(*self._marked(batch, "val"), "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and metrics over the test nodes."""
        self._evaluate(*self._marked(batch, "test"), "test")

    def _marked(self, batch: Any, stage: str) -> tuple[Tensor, Tensor]:
        """Return logits and labels of the nodes of a stage.

        Raises:
            ValueError: If the graph marks none.
        """
        if hasattr(batch, "input_id"):
            return self(batch)[: batch.batch_size], batch.y[: batch.batch_size]
        mask = getattr(batch, f"{stage}_mask", None)
        if mask is None:
            raise ValueError(f"The graph has no {stage}_mask, a bool for each node.")
        # found once, not every step: counting makes a GPU wait
        nodes = self._places[stage](_marked_places, mask)
        if not len(nodes):
            raise ValueError(f"The {stage}_mask of the graph marks no node.")
        return self(batch).index_select(0, nodes), batch.y.index_select(0, nodes)


def _marked_places(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()
