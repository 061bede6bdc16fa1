"""Mini-batches of a graph: what is drawn, what counts, and what is said where nothing can draw."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import cross_entropy

from ltpl import find_tickets
from ltpl.cli import main
from ltpl.data.graphs import KarateClub, StochasticBlockModel, as_csr
from ltpl.models.graph import GAT, GCN, GIN, GraphSAGE
from ltpl.modules.node import NodeClassifier

from .drawing import sampler  # noqa: F401

pyg = pytest.importorskip("torch_geometric")
CONFIG = Path(__file__).parents[2] / "configs" / "gcn_cora_imp.yaml"
pytestmark = pytest.mark.filterwarnings("ignore:Using 'NeighborSampler' without a 'pyg-lib'")
drawn = pytest.mark.usefixtures("sampler")


def blocks(**options: Any) -> StochasticBlockModel:
    data = StochasticBlockModel(nodes=15, features=6, **{"neighbors": [3, 3], **options})
    data.setup("fit")
    return data


def module(kind: Any = GCN) -> NodeClassifier:
    network = kind(inputs=6, hidden=8, outputs=4, dropout=0.0)
    return NodeClassifier(network, functools.partial(torch.optim.Adam, lr=0.05))


def fit(model: Any, data: Any, folder: Path, epochs: int = 1) -> pl.Trainer:
    quiet = dict.fromkeys(["logger", "enable_progress_bar", "enable_model_summary"], False)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        default_root_dir=folder,
        log_every_n_steps=1,
        **quiet,
    )
    trainer.fit(model, datamodule=data)
    return trainer


@drawn
def test_every_training_node_is_asked_for_once_in_an_epoch() -> None:
    data = blocks(batch_size=5)
    loader = data.train_dataloader()
    orders = []
    for _ in range(2):
        batches = list(loader)
        orders.append(torch.cat([b.n_id[: b.batch_size] for b in batches]))
        assert [b.batch_size for b in batches] == [5, 5, 2]
        for batch in batches:
            assert torch.equal(batch.x, data.graph.x[batch.n_id])
            assert batch.edge_index[1].bincount().max() <= 3
    marked = data.graph.train_mask.nonzero().flatten()
    assert all(torch.equal(order.sort().values, marked) for order in orders)
    assert not torch.equal(*orders)
    assert len(list(data.val_dataloader())) == 1


@drawn
def test_sparse_features_come_dense_and_the_graph_stays_as_it_is() -> None:
    data = blocks()
    dense = data.graph.x
    data.graph.x = sparse = as_csr(dense.to_sparse())
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.x, dense[batch.n_id])
    assert data.graph.x is sparse


@drawn
def test_what_is_done_to_the_edges_is_seen_in_the_batches() -> None:
    data = blocks(neighbors=[-1])
    data.graph.edge_index = data.graph.edge_index[:, :0]
    assert all(batch.num_edges == 0 for batch in data.train_dataloader())


@pytest.mark.parametrize("kind", [GCN, GAT, GIN, GraphSAGE])
def test_only_the_nodes_that_were_asked_for_count(kind: Any) -> None:
    """As NeighborLoader makes them: those first, their neighbours behind, each with its marks."""
    model = module(kind).eval()
    batch = pyg.data.Data(
        x=torch.rand(7, 6),
        edge_index=torch.tensor([[3, 4, 5, 6, 3], [0, 1, 2, 3, 1]]),
        y=torch.randint(4, (7,)),
        train_mask=torch.tensor([True] * 2 + [False] * 3 + [True] * 2),
        n_id=torch.randperm(50)[:7],
        input_id=torch.arange(3),
        batch_size=3,
    )
    expected = cross_entropy(model.network(batch.x, batch.edge_index)[:3], batch.y[:3])
    assert torch.equal(model.training_step(batch, 0), expected)
    told = {}
    model.log_dict = lambda means, batch_size, **_: told.update(means, size=batch_size)
    model.validation_step(batch, 0)
    torch.testing.assert_close(told["val/loss"], expected)
    assert told["size"] == 3


def test_batches_of_whole_graphs_count_by_their_marks() -> None:
    """`Batch.batch_size` is a number of graphs."""
    graph = KarateClub()
    graph.setup("fit")
    both = pyg.data.Batch.from_data_list([graph.graph, graph.graph])
    model = NodeClassifier(GCN(inputs=34, outputs=4, dropout=0.0))
    logits = model(both)[both.train_mask]
    assert torch.equal(model.training_step(both, 0), cross_entropy(logits, both.y[both.train_mask]))


@drawn
def test_with_all_neighbours_a_batch_of_all_nodes_gives_the_loss_of_the_graph() -> None:
    model = module(GraphSAGE)
    data = blocks(neighbors=[-1, -1], batch_size=50)
    (batch,) = data.train_dataloader()
    torch.testing.assert_close(model.training_step(batch, 0), model.training_step(data.graph, 0))


@drawn
@pytest.mark.parametrize("kind", [GCN, GAT, GIN, GraphSAGE])
def test_every_network_learns_from_mini_batches(kind: Any, tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    model, data = module(kind), blocks(batch_size=4)
    trainer = fit(model, data, tmp_path, epochs=15)
    assert trainer.global_step == 45
    marked = data.graph.train_mask
    right = model.eval()(data.graph).argmax(1) == data.graph.y
    assert right[marked].float().mean() > 0.7


@drawn
def test_mini_batches_go_through_rounds_and_resume(tmp_path: Path) -> None:
    def run(folder: str) -> Any:
        return find_tickets(
            module,
            lambda: blocks(batch_size=4),
            run=tmp_path / folder,
            levels=1,
            prune={"amount": 0.5},
            trainer={"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1},
            report=False,
            quiet=True,
        )

    once, again = run("one"), run("other")
    assert once.mask(1) == again.mask(1)
    for one, other in zip(once.results, again.results, strict=True):
        assert one.test == other.test
        assert (one.inputs, one.steps) == (6, 6)


@drawn
def test_a_data_module_of_pyg_gives_mini_batches_too() -> None:
    modules = pytest.importorskip("torch_geometric.data.lightning")
    options = {"num_neighbors": [3, 3], "batch_size": 4, "num_workers": 0, "pin_memory": False}
    data = modules.LightningNodeData(blocks().graph, loader="neighbor", **options)
    model = module()
    for loader, step in (
        (data.train_dataloader(), model.training_step),
        (data.val_dataloader(), lambda batch, index: model._marked(batch, "val")),
    ):
        batch = next(iter(loader))
        logits, labels = model.network(batch.x, batch.edge_index)[:4], batch.y[:4]
        found = step(batch, 0)
        if isinstance(found, tuple):
            assert all(map(torch.equal, found, (logits, labels)))
        else:
            assert torch.equal(found, cross_entropy(logits, labels))


@pytest.mark.parametrize("given", [[], 10, [10, 0], [10, -2], [1.5], "10"])
def test_numbers_of_neighbours_that_make_no_sense_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="neighbors=") as raised:
        KarateClub(neighbors=given)
    assert "\n" not in str(raised.value)


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WITH_PYG_LIB", "WITH_TORCH_SPARSE"):
        monkeypatch.setattr(pyg.typing, name, False)


def test_where_nothing_can_draw_neighbours_that_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch)
    with pytest.raises(ValueError, match=r"neighbors=\[10, 10\].*pyg-lib or torch-sparse.*leave"):
        KarateClub(neighbors=[10, 10])


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.parametrize("command", ["fit", "rounds"])
def test_the_command_line_says_so_in_one_line_with_exit_code_two(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["ltpl"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([command, f"--config={CONFIG}", "--data.neighbors=[10, 10]"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "neighbors=[10, 10]" in told
    assert "pyg-lib or torch-sparse" in told
    assert not list(tmp_path.rglob("*"))
