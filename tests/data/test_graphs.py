from __future__ import annotations

import copy
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data.distributed import DistributedSampler

from ltpl.data import graphs
from ltpl.data.graphs import GraphData, KarateClub, Planetoid, StochasticBlockModel
from ltpl.data.planetoid import file_names

pyg = pytest.importorskip("torch_geometric")
ROOT = Path(os.environ.get("LTPL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
wants_cora = pytest.mark.skipif(
    not (ROOT / "Cora" / "raw").is_dir(),
    reason=f"no Cora/raw in {ROOT}; LTPL_DATA names the folder that holds it",
)


def ready(data: GraphData) -> Any:
    data.setup("fit")
    return data.graph


def cora(**options: Any) -> Any:
    return ready(Planetoid(ROOT, **options))


def counts(graph: Any) -> list[int]:
    return [int(graph[f"{part}_mask"].sum()) for part in ("train", "val", "test")]


def must_be_split(graph: Any) -> None:
    parts = graph.train_mask.int() + graph.val_mask + graph.test_mask
    assert parts.max() == 1


@wants_cora
def test_the_public_split_of_cora() -> None:
    data = Planetoid(ROOT)
    graph = ready(data)
    assert (data.classes, data.features) == (7, 1433)
    assert (graph.num_nodes, graph.num_edges) == (2708, 10_556)
    assert counts(graph) == [140, 500, 1000]
    assert graph.y[graph.train_mask].bincount().tolist() == [20] * 7
    must_be_split(graph)
    assert graph.is_undirected()


@wants_cora
def test_all_other_nodes_train_in_the_full_split() -> None:
    graph, public = cora(split="full"), cora()
    assert counts(graph) == [1208, 500, 1000]
    assert torch.equal(graph.test_mask, public.test_mask)
    must_be_split(graph)


@wants_cora
def test_a_random_split_is_balanced_and_decided_by_the_seed() -> None:
    graph, again, other = (cora(split="random", seed=seed) for seed in (1, 1, 2))
    assert counts(graph) == [140, 500, 1000]
    assert graph.y[graph.train_mask].bincount().tolist() == [20] * 7
    must_be_split(graph)
    for mask in ("train_mask", "val_mask", "test_mask"):
        assert torch.equal(graph[mask], again[mask])
        assert not torch.equal(graph[mask], other[mask])


@wants_cora
def test_words_are_normalised_by_row_or_as_stored() -> None:
    normalised, raw = cora(), cora(normalize=False, sparse=False)
    assert normalised.x.layout == torch.sparse_csr
    assert raw.x.layout == torch.strided
    assert set(raw.x.unique().tolist()) == {0.0, 1.0}
    expected = pyg.transforms.NormalizeFeatures()(copy.copy(raw)).x
    assert torch.equal(normalised.x.to_dense(), expected)
    assert torch.equal(cora(sparse=False).x, expected)


def test_empty_rows_stay_empty() -> None:
    words = torch.tensor([[0.0, 3.0, 1.0], [0.0, 0.0, 0.0]]).to_sparse()
    assert graphs.row_normalised(words).to_dense().tolist() == [[0, 0.75, 0.25], [0, 0, 0]]


@wants_cora
def test_nothing_is_written_beside_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "Cora", tmp_path / "Cora")
    monkeypatch.setattr(graphs, "fetch", lambda *_: pytest.fail("fetched"))
    before = sorted(tmp_path.rglob("*"))
    data = Planetoid(tmp_path, download=True)  # nothing is missing
    data.prepare_data()
    data.setup("fit")
    assert sorted(tmp_path.rglob("*")) == before


@wants_cora
def test_the_files_are_read_once_a_process_and_graphs_are_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = cora()
    monkeypatch.setattr("ltpl.data.planetoid._content", lambda _: pytest.fail("read again"))
    first.edge_index = first.edge_index[:, :10]
    assert cora(normalize=False).num_edges == 10_556


def test_missing_files_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not found") as raised:
        ready(Planetoid(tmp_path, "PubMed"))
    told = str(raised.value)
    assert told.startswith(f"data_dir: {', '.join(file_names('PubMed'))} not found in {tmp_path}")
    assert "download=True" in told
    assert "\n" not in told


def test_only_missing_files_are_fetched_and_only_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def copied(source: str, target: str) -> None:
        fetched.append(source)
        Path(target).write_text("content")

    monkeypatch.setattr("torch_geometric.io.fs.cp", copied)
    Planetoid(tmp_path).prepare_data()
    assert not fetched
    assert not list(tmp_path.iterdir())
    raw = tmp_path / "Cora" / "raw"
    raw.mkdir(parents=True)
    (raw / "ind.cora.x").write_text("mine")
    Planetoid(tmp_path, download=True).prepare_data()
    missing = [name for name in file_names("Cora") if name != "ind.cora.x"]
    source = "https://github.com/kimiyoung/planetoid/raw/master/data"
    assert fetched == [f"{source}/{name}" for name in missing]
    assert sorted(file.name for file in raw.iterdir()) == sorted(file_names("Cora"))
    assert (raw / "ind.cora.x").read_text() == "mine"


def test_a_broken_download_leaves_nothing_and_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source: str, target: str) -> None:
        Path(target).write_text("half of it")
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("torch_geometric.io.fs.cp", interrupted)
    with pytest.raises(ValueError, match="could not be copied") as raised:
        Planetoid(tmp_path, download=True).prepare_data()
    told = str(raised.value)
    assert str(tmp_path / "Cora" / "raw") in told
    assert "(no route to host)" in told
    assert "ind.cora.graph" in told
    assert "\n" not in told
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("kind", [Planetoid, KarateClub, StochasticBlockModel])
def test_a_missing_pyg_is_said_in_one_line(
    kind: type[GraphData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("data", "datasets", "utils"):
        monkeypatch.setitem(sys.modules, f"torch_geometric.{module}", None)
    options = {"data_dir": tmp_path, "download": True} if kind is Planetoid else {}
    data = kind(**options)
    step = data.prepare_data if kind is Planetoid else data.load
    with pytest.raises(ValueError, match="pip install torch-geometric") as raised:
        step()
    assert "\n" not in str(raised.value)


def test_the_karate_club_has_four_labelled_people() -> None:
    data = KarateClub(seed=3)
    graph = ready(data)
    assert counts(graph) == [4, 15, 15]
    assert sorted(graph.y[graph.train_mask].tolist()) == [0, 1, 2, 3]
    assert (data.classes, data.features, graph.num_edges) == (4, 34, 156)
    must_be_split(graph)
    assert torch.equal(ready(KarateClub(seed=3)).val_mask, graph.val_mask)
    assert not torch.equal(ready(KarateClub(seed=4)).val_mask, graph.val_mask)


def test_blocks_are_as_dense_as_asked_for() -> None:
    data = StochasticBlockModel(3, 80, p_in=0.3, p_out=0.05, features=5, train=0.1, val=0.2)
    graph = ready(data)
    assert (data.classes, data.features, graph.num_nodes) == (3, 5, 240)
    assert graph.y.bincount().tolist() == [80] * 3
    inside = graph.y[graph.edge_index[0]] == graph.y[graph.edge_index[1]]
    assert abs(int(inside.sum()) / (3 * 80 * 79) - 0.3) < 0.03
    assert abs(int((~inside).sum()) / (240 * 160) - 0.05) < 0.015
    assert counts(graph) == [24, 48, 168]
    must_be_split(graph)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_nodes_of_a_block_differ_by_the_noise(noise: float) -> None:
    graph = ready(StochasticBlockModel(2, 200, features=20, noise=noise))
    assert float(graph.x[:200].std(0).mean()) == pytest.approx(noise, rel=0.1)
    assert (graph.x[:200].mean(0) - graph.x[200:].mean(0)).abs().mean() > 0.4


def test_the_seed_alone_decides_the_blocks() -> None:
    before = torch.get_rng_state()
    first, again, other = (ready(StochasticBlockModel(seed=seed)) for seed in (1, 1, 2))
    for name in ("x", "edge_index", "train_mask"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("part", ["train", "val", "test", "predict"])
def test_an_epoch_is_the_graph_itself_and_draws_nothing(part: str) -> None:
    data = KarateClub()
    data.setup("fit")
    loader = getattr(data, f"{part}_dataloader")()
    before = torch.get_rng_state()
    for _ in range(2):
        (batch,) = loader
        assert batch is data.graph
    assert len(loader) == 1
    assert torch.equal(torch.get_rng_state(), before)
    # Lightning would give the graph to one of several processes
    assert isinstance(loader.sampler, DistributedSampler)
    assert loader.sampler.num_replicas == 1


def test_the_graph_is_moved_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = KarateClub()
    data.setup("fit")
    device = torch.device("meta")
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=device))
    (batch,) = data.train_dataloader()
    assert {value.device for value in batch.to_dict().values()} == {device}
    monkeypatch.setattr(type(batch), "to", lambda *_: pytest.fail("moved again"))
    assert next(iter(data.val_dataloader())) is batch
    assert data.transfer_batch_to_device(batch, device, 0) is batch
    assert data.graph is batch  # so that changed edges are seen in training


def test_a_graph_that_is_elsewhere_is_moved_as_a_copy() -> None:
    data = KarateClub()
    graph = ready(data)
    moved = data.transfer_batch_to_device(graph, torch.device("meta"), 0)
    assert moved.x.device.type == "meta"
    assert graph.x.device.type == "cpu"


class Recorder(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(34, 4)
        self.batches: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.batches.append(batch)
        return cross_entropy(self.net(batch.x), batch.y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_gets_the_graph_as_it_is_and_what_was_done_to_its_edges(tmp_path: Path) -> None:
    recorder, data = Recorder(), KarateClub()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(recorder, datamodule=data)
    data.graph.edge_index = data.graph.edge_index[:, ::2]
    trainer.test(recorder, datamodule=data, verbose=False)  # sets the data up again
    assert len(recorder.batches) == 1 + 3 + 3 + 1
    assert all(batch is data.graph for batch in recorder.batches)
    assert data.graph.num_edges == 78


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            Planetoid,
            {"name": "Citeseer"},
            "name='Citeseer': 'Cora', 'CiteSeer' and 'PubMed' are allowed. Did you mean "
            "'CiteSeer'?",
        ),
        (
            Planetoid,
            {"split": "geom-gcn"},
            "split='geom-gcn': 'public', 'full' and 'random' are allowed.",
        ),
        (Planetoid, {"normalize": "no"}, "normalize='no': True and False are allowed."),
        (Planetoid, {"sparse": 1}, "sparse=1: True and False are allowed."),
        (Planetoid, {"download": None}, "download=None: True and False are allowed."),
        (Planetoid, {"seed": -1}, "seed=-1: a whole number is wanted, 0 to 4294967295."),
        (KarateClub, {"seed": 0.5}, "seed=0.5: a whole number is wanted, 0 to 4294967295."),
        (StochasticBlockModel, {"blocks": 0}, "blocks=0: a whole number is wanted, at least 1."),
        (StochasticBlockModel, {"nodes": 1}, "nodes=1: a whole number is wanted, at least 2."),
        (StochasticBlockModel, {"p_in": 1.5}, "p_in=1.5: a share from 0 to 1 is wanted."),
        (StochasticBlockModel, {"noise": -1}, "noise=-1: a number from 0 is wanted."),
        (StochasticBlockModel, {"train": 0}, "train=0: a share above 0 to 1 is wanted."),
        (
            StochasticBlockModel,
            {"train": 0.5, "val": 0.5},
            "train=0.5, val=0.5: nothing is left to test.",
        ),
    ],
)
def test_wrong_options_are_named_in_one_line(
    kind: type[GraphData], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="=") as raised:
        kind(**options)
    assert str(raised.value) == message
