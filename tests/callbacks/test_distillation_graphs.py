"""A teacher labels the nodes of a graph: all of them, or those that have labels."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import trainer
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from ltpl.callbacks import Distillation, EdgePruning
from ltpl.data import StochasticBlockModel
from ltpl.models import GCN, GraphSAGE
from ltpl.modules import NodeClassifier

EPOCHS = 4


def data(sparse: bool = False) -> StochasticBlockModel:
    found = StochasticBlockModel(noise=3.0)
    found.setup("fit")
    if sparse:
        found.graph.x = found.graph.x.relu().to_sparse_csr()
    return found


def gcn() -> GCN:
    return GCN(inputs=16, hidden=8, outputs=4, dropout=0.0)


def fit(folder: Path, distillation: Distillation, network: Any, graphs: Any) -> Any:
    run = trainer(folder, [distillation], max_epochs=EPOCHS, log_every_n_steps=1)
    run.fit(NodeClassifier(network), datamodule=graphs)
    return run


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("nodes", ["all", "train"])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_bits_are_those_of_a_script(nodes: str, sparse: bool, tmp_path: Path) -> None:
    network, teacher = gcn(), gcn()
    twin = copy.deepcopy(network)
    graphs = data(sparse)
    fit(tmp_path, Distillation(teacher, temperature=2.0, nodes=nodes), network, graphs)
    graph, optimizer = graphs.graph, torch.optim.Adam(twin.parameters())
    places = graph.train_mask.nonzero().flatten()
    teacher.eval()
    for _ in range(EPOCHS):
        z = twin(graph.x, graph.edge_index)
        with torch.no_grad():
            goal = teacher(graph.x, graph.edge_index)
        hard = cross_entropy(z.index_select(0, places), graph.y.index_select(0, places))
        if nodes == "train":
            z, goal = z.index_select(0, places), goal.index_select(0, places)
        soft = [(x / 2.0).log_softmax(1) for x in (z, goal)]
        kd = kl_div(*soft, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        ((1 - 0.5) * hard + 0.5 * 2.0**2 * kd).backward()
        optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True)
    )


class Counted(GraphSAGE):
    asked = 0

    def forward(self, x: Tensor, edge_index: Any, *rest: Tensor) -> Tensor:
        type(self).asked += 1
        out: Tensor = super().forward(x, edge_index, *rest)
        return out


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("sparse", [False, True])
def test_a_whole_graph_is_labelled_once(sparse: bool, tmp_path: Path) -> None:
    """Training and validation look at the same tensors, so one answer serves both."""
    Counted.asked = 0
    teacher = Counted(inputs=16, hidden=8, outputs=4)
    fit(tmp_path, Distillation(teacher), gcn(), data(sparse))
    assert Counted.asked == 1


def test_edges_that_change_are_labelled_anew(tmp_path: Path) -> None:
    class Loses(StochasticBlockModel):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            batch.edge_index = batch.edge_index[:, :-2]
            return batch

    Counted.asked = 0
    graphs = Loses()
    teacher = Counted(inputs=16, hidden=8, outputs=4)
    fit(tmp_path, Distillation(teacher, validate=False), gcn(), graphs)
    assert Counted.asked == EPOCHS


def test_the_teacher_is_judged_by_the_nodes_of_each_stage(tmp_path: Path) -> None:
    graphs, teacher = data(), gcn()
    run = fit(tmp_path, Distillation(teacher), gcn(), graphs)
    graph = graphs.graph
    hits = teacher.eval()(graph.x, graph.edge_index).argmax(1) == graph.y
    for name, mask in (("teacher_top1", graph.train_mask), ("val_teacher_top1", graph.val_mask)):
        expected = float(hits[mask].float().mean())
        assert float(run.callback_metrics[f"distill/{name}"]) == pytest.approx(expected)


def test_a_network_that_is_called_with_a_graph(tmp_path: Path) -> None:
    import pytorch_lightning as pl

    class TakesData(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.asked = gcn(), 0

        def forward(self, graph: Any) -> Tensor:
            self.asked += 1
            out: Tensor = self.body(graph.x, graph.edge_index)
            return out

    class Foreign(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = TakesData()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return cross_entropy(self.net(batch)[batch.train_mask], batch.y[batch.train_mask])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net(batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    teacher = TakesData()
    run = trainer(tmp_path, [Distillation(teacher, student="net")], max_epochs=EPOCHS)
    run.fit(Foreign(), datamodule=data())
    assert teacher.asked == 1
    assert float(run.callback_metrics["distill/kd"]) > 0


def test_edges_that_are_pruned_are_pruned_for_the_teacher_too(tmp_path: Path) -> None:
    seen = []

    class Sees(Counted):
        def forward(self, x: Tensor, edge_index: Any, *rest: Tensor) -> Tensor:
            seen.append(edge_index.shape[1])
            return super().forward(x, edge_index, *rest)

    graphs = data()
    total = graphs.graph.edge_index.shape[1]
    for first in (0, 1):
        seen.clear()
        prune = EdgePruning(amount=0.5, criterion="random", epoch=2)
        callbacks = [prune, Distillation(Sees(inputs=16, hidden=8, outputs=4))]
        module = NodeClassifier(gcn())
        run = trainer(tmp_path, callbacks[first:] + callbacks[:first], max_epochs=EPOCHS)
        run.fit(module, datamodule=graphs)
        assert seen == [total, total // 2]
        assert not {"training_step", "validation_step"} & set(vars(module))
