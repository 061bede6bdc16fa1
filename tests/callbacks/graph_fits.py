"""A small graph, plain LightningModules over it, and a quiet Trainer of either package."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ltpl.data.graphs import StochasticBlockModel

with warnings.catch_warnings():  # PyG 2.8 uses torch.jit, of which torch 2.15 warns
    warnings.filterwarnings("ignore", "`torch.jit")
    pyg = pytest.importorskip("torch_geometric")
    layers = pytest.importorskip("torch_geometric.nn")

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")
FEATURES, CLASSES = 6, 3


def graph(loops: int = 0, **more: Any) -> Any:
    """An undirected graph, with one edge that has no reverse and some self-loops in between."""
    data = StochasticBlockModel(blocks=CLASSES, nodes=10, p_in=0.4, p_out=0.1, features=FEATURES)
    data.setup("fit")
    found = data.graph
    one = found.edge_index[:, :1]
    found.edge_index = found.edge_index[:, ~(found.edge_index == one.flip(0)).all(0)]
    nodes = torch.arange(loops)
    index = torch.cat([found.edge_index, torch.stack([nodes, nodes])], dim=1)
    found.edge_index = index[:, torch.randperm(index.shape[1])]
    found.x = found.x * (found.x.abs() > 0.7)
    for name, value in more.items():
        found[name] = value
    return found


def loader(*graphs: Any) -> DataLoader:
    """The graphs, one a batch; nothing is drawn from the global random state."""
    return DataLoader(list(graphs), batch_size=None, generator=torch.Generator())


class Convolutions(nn.Module):
    """Two layers of PyG."""

    def __init__(self, kind: Callable[..., nn.Module] | None = None) -> None:
        super().__init__()
        kind = layers.GCNConv if kind is None else kind
        self.first, self.last = kind(FEATURES, 8), kind(8, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor, *weight: Tensor) -> Tensor:
        return self.last(self.first(x, edge_index, *weight).relu(), edge_index, *weight)


def gin(inputs: int, outputs: int) -> nn.Module:
    return layers.GINConv(nn.Linear(inputs, outputs))


def module(net: nn.Module | None = None, package: str = NAMESPACES[0]) -> Any:
    """A LightningModule that knows nothing of pruning, and notes which graphs its steps see."""
    kind = importlib.import_module(package).LightningModule

    class Plain(kind):
        def __init__(self) -> None:
            super().__init__()
            self.net = Convolutions() if net is None else net
            self.seen: dict[str, list[Any]] = {"train": [], "val": [], "test": [], "predict": []}

        def _logits(self, batch: Any, stage: str) -> Tensor:
            self.seen[stage].append(batch)
            weight = () if batch.edge_weight is None else (batch.edge_weight,)
            return self.net(batch.x, batch.edge_index, *weight)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self._logits(batch, "train")
            return cross_entropy(logits[batch.train_mask], batch.y[batch.train_mask])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self._logits(batch, "val")

        def test_step(self, batch: Any) -> None:
            self._logits(batch, "test")

        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
            return self._logits(batch, "predict")

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.02, weight_decay=1e-3)

    return Plain()


def trainer(folder: Any, *callbacks: Any, package: str = NAMESPACES[0], **options: Any) -> Any:
    options = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    } | options
    return importlib.import_module(package).Trainer(callbacks=list(callbacks), **options)
