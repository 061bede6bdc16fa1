from __future__ import annotations

import copy
import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graph_fits import NAMESPACES, graph, layers, loader, module, pyg, trainer

from ltpl.callbacks import Cubic, EdgePruning, Every, PruneAtEpoch
from ltpl.masks.edges import Edges, by_chance, by_degree, by_features, strongest

pytestmark = pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`")


def edges_of(seen: Any) -> Counter:
    return Counter(map(tuple, seen.edge_index.T.tolist()))


def undirected(seen: Any) -> set[tuple[int, int]]:
    return {(min(u, v), max(u, v)) for u, v in edges_of(seen) if u != v}


def kept_of(index: torch.Tensor, keep: torch.Tensor) -> set[tuple[int, int]]:
    ends = Edges.of(index).ends[:, keep]
    return set(map(tuple, ends.T.tolist()))


@pytest.mark.parametrize("package", NAMESPACES)
@pytest.mark.parametrize("criterion", ["learned", "random", "jaccard", "degree"])
def test_every_step_sees_the_pruned_graph(tmp_path: Path, criterion: str, package: str) -> None:
    pytest.importorskip(package)
    data, edges = graph(loops=4), EdgePruning(0.3, criterion, epoch=1)
    whole, before = Edges.of(data.edge_index), edges_of(data)
    plain = module(package=package)
    run = trainer(tmp_path, edges, package=package)
    run.fit(plain, loader(data), loader(data))
    run.validate(plain, loader(data), verbose=False)
    run.test(plain, loader(data), verbose=False)
    run.predict(plain, loader(data))
    kept = whole.total - round(0.3 * whole.total)
    train, val = ([undirected(b) for b in plain.seen[stage]] for stage in ("train", "val"))
    assert [len(seen) for seen in train] == [whole.total, kept, kept]
    assert train[1] == train[2] == kept_of(data.edge_index, edges.ticket.keep)
    assert val == [*train, train[2]]
    assert [undirected(b) for stage in ("test", "predict") for b in plain.seen[stage]] == [
        train[2]
    ] * 2
    for batch in [b for stage in plain.seen.values() for b in stage]:
        pruned = edges_of(batch)
        assert pruned == Counter(
            {
                e: n
                for e, n in before.items()
                if tuple(sorted(e)) in undirected(batch) or e[0] == e[1]
            }
        )
    assert torch.equal(plain.seen["test"][0].edge_index, edges.ticket.edge_index)


def test_the_graph_of_the_user_is_not_altered(tmp_path: Path) -> None:
    data = graph(loops=3)
    data.edge_attr = torch.rand(data.num_edges, 2)
    data.edge_weight = torch.rand(data.num_edges)
    held, values = dict(data.to_dict()), copy.deepcopy(data).to_dict()
    plain, edges = module(), EdgePruning(0.5, epoch=1)
    trainer(tmp_path, edges).fit(plain, loader(data), loader(data))
    assert sorted(data.keys()) == sorted(held)
    for name, value in data.to_dict().items():
        assert value is held[name]
        assert torch.equal(value, values[name])
    last = plain.seen["train"][-1]
    at = [data.edge_index.T.tolist().index(edge) for edge in last.edge_index.T.tolist()]
    assert torch.equal(last.edge_attr, data.edge_attr[at])
    assert torch.equal(last.edge_weight, data.edge_weight[at])
    assert last.x is data.x


@pytest.mark.filterwarnings("ignore:Unable to accurately infer 'num_nodes'")
def test_a_graph_without_features_keeps_its_nodes(tmp_path: Path) -> None:
    data, plain, seen = graph(), module(), []
    nodes = data.num_nodes
    data = pyg.data.Data(edge_index=data.edge_index, num_nodes=nodes)
    del data.num_nodes  # PyG counts the nodes that edges lead to

    def training_step(batch: Any, batch_idx: int) -> Any:
        seen.append((batch.num_nodes, int(batch.edge_index.max()) + 1))
        return sum(p.sum() for p in plain.parameters())

    plain.training_step = training_step
    trainer(tmp_path, EdgePruning(0.9, "random", epoch=1)).fit(plain, loader(data))
    assert [number for number, _ in seen] == [nodes] * 3
    assert seen[-1][1] < nodes


@pytest.mark.filterwarnings("ignore:.*`torch.jit:DeprecationWarning")
def test_the_full_loader_of_pyg_will_do(tmp_path: Path) -> None:
    package = "lightning.pytorch"
    pytest.importorskip(package)  # where both are installed, PyG derives from this one
    lightning = pytest.importorskip("torch_geometric.data.lightning")
    data, edges, plain = graph(), EdgePruning(0.4, epoch=1), module(package=package)
    before = edges_of(data)
    given = lightning.LightningNodeData(data, loader="full")
    run = trainer(tmp_path, edges, package=package)
    run.fit(plain, given)
    run.test(plain, given, verbose=False)
    assert edges.ticket.density == pytest.approx(0.6, abs=0.01)
    assert undirected(plain.seen["test"][0]) == kept_of(data.edge_index, edges.ticket.keep)
    assert edges_of(data) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"amount": 0}, "amount=0: a share of the remaining edges, 0 < amount < 1"),
        ({"amount": 1.0}, "amount=1.0"),
        ({"criterion": "learnt"}, "did you mean 'learned'"),
        ({"lr": -1.0}, "lr=-1.0: 0 <= lr"),
        ({"l1": float("nan")}, "l1=nan"),
        ({"epoch": [3, 3]}, r"epochs=\[3, 3\]"),
        ({"epoch": Cubic(1, 5)}, "give an epoch, a list of epochs, or Every"),
    ],
)
def test_a_wrong_option_is_said_in_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as raised:
        EdgePruning(**options)
    assert "\n" not in str(raised.value)


def test_the_last_graph_is_pruned_when_training_ends(tmp_path: Path) -> None:
    data, plain, edges = graph(), module(), EdgePruning(0.25, "degree")
    run = trainer(tmp_path, edges)
    run.fit(plain, loader(data))
    run.test(plain, loader(data), verbose=False)
    total = edges.ticket.total
    assert [len(undirected(b)) for b in plain.seen["train"]] == [total] * 3
    assert len(undirected(plain.seen["test"][0])) == total - round(0.25 * total)
    assert edges.pruned_at == [3]


def test_another_module_begins_with_the_whole_graph(tmp_path: Path) -> None:
    data, edges, second = graph(), EdgePruning(0.25, "degree"), module()
    trainer(tmp_path, edges).fit(module(), loader(data))
    trainer(tmp_path, edges).fit(second, loader(data))
    assert len(undirected(second.seen["train"][-1])) == edges.ticket.total


def test_each_time_a_share_of_the_rest_goes_by_the_criterion(tmp_path: Path) -> None:
    data = graph()
    whole = Edges.of(data.edge_index)
    chance = by_chance(whole.total, "random", 5, 0)
    scores = {
        "random": lambda keep: -chance,
        "jaccard": lambda keep: by_features(data.x, whole.ends),
        "degree": lambda keep: by_degree(whole.ends, keep),
    }
    for criterion, score in scores.items():
        plain, keep, expected = module(), whole.all(), []
        edges = EdgePruning(0.2, criterion, epoch=Every(1), seed=5)
        trainer(tmp_path, edges, max_epochs=4).fit(plain, loader(data))
        for _ in range(4):
            expected.append(kept_of(data.edge_index, keep))
            left = int(keep.sum())
            keep = strongest(score(keep), keep, left - round(0.2 * left), chance)
        assert [undirected(b) for b in plain.seen["train"]] == expected
        assert torch.equal(edges.ticket.keep, keep)  # as training ends, too


def test_epoch_zero_is_before_the_first_step(tmp_path: Path) -> None:
    plain, edges = module(), EdgePruning(0.5, "random", epoch=0)
    trainer(tmp_path, edges).fit(plain, loader(graph()))
    assert {len(undirected(b)) for b in plain.seen["train"]} == {edges.ticket.kept}
    assert edges.ticket.kept == edges.ticket.total - round(0.5 * edges.ticket.total)


def test_an_epoch_beyond_the_end_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"never pruned at \[9\]"):
        trainer(tmp_path, EdgePruning(epoch=[1, 9])).fit(module(), loader(graph()))


def test_weights_are_pruned_beside(tmp_path: Path) -> None:
    plain, edges = module(), EdgePruning(0.5, epoch=1)
    weights = PruneAtEpoch(epochs=1, amount=0.5)
    trainer(tmp_path, weights, edges).fit(plain, loader(graph()))
    assert weights.mask is not None
    assert weights.mask.density == pytest.approx(0.5, abs=0.01)
    assert edges.ticket.density == pytest.approx(0.5, abs=0.01)


def test_steps_are_put_back(tmp_path: Path) -> None:
    plain, data = module(), graph()
    own = plain.validation_step = lambda batch, batch_idx: None
    trainer(tmp_path, EdgePruning(epoch=1)).fit(plain, loader(data), loader(data))
    assert vars(plain)["validation_step"] is own
    assert not {"training_step", "test_step", "predict_step"} & vars(plain).keys()

    class Fails(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trainer(tmp_path, EdgePruning(), Fails()).fit(plain, loader(data))
    assert vars(plain)["validation_step"] is own
    assert "training_step" not in vars(plain)


def test_what_is_kept_goes_to_every_logger_and_prunings_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("ltpl.callbacks.graph_steps.rank_zero_info", said.append)
    data, edges = graph(), EdgePruning(0.3, "random", epoch=1)
    logs = [pl.loggers.CSVLogger(tmp_path, name) for name in ("a", "b")]
    trainer(tmp_path, edges, logger=logs).fit(module(), loader(data))
    index, y = data.edge_index, data.y
    total, kept = edges.ticket.total, edges.ticket.kept
    alive = Edges.of(index).ends[:, edges.ticket.keep]
    same = float((y[alive[0]] == y[alive[1]]).float().mean())
    ends = Edges.of(index).ends
    whole = float((y[ends[0]] == y[ends[1]]).float().mean())
    for log in logs:
        with (Path(log.log_dir) / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["edges/kept"]) for row in rows] == [total, kept, kept]
        assert float(rows[1]["edges/density"]) == pytest.approx(kept / total)
        assert float(rows[1]["edges/homophily"]) == pytest.approx(same)
    assert said == [
        f"EdgePruning: after 1 epochs {total} -> {kept} of the {total} undirected edges, "
        f"homophily {whole:.2f} -> {same:.2f}"
    ]


def test_without_labels_there_is_no_homophily(tmp_path: Path) -> None:
    data = graph()
    data.y = torch.nn.functional.one_hot(data.y).float()
    log = pl.loggers.CSVLogger(tmp_path)
    trainer(tmp_path, EdgePruning(), logger=log).fit(module(), loader(data))
    header = (Path(log.log_dir) / "metrics.csv").read_text().splitlines()[0]
    assert "edges/kept" in header
    assert "homophily" not in header


def test_remembering_layers_are_refused_since_they_would_not_notice(tmp_path: Path) -> None:
    data = graph()
    conv = layers.GCNConv(6, 3, cached=True)
    first = conv(data.x, data.edge_index)
    assert torch.equal(conv(data.x, data.edge_index[:, :20]), first)  # the trap
    plain = module(layers.Sequential("x, edge_index", [(conv, "x, edge_index -> x")]))
    told = r"net\.module_0 is a GCNConv\(cached=True\).*build it with cached=False"
    for criterion in ("learned", "random"):
        with pytest.raises(ValueError, match=told):
            trainer(tmp_path, EdgePruning(0.5, criterion)).fit(plain, loader(data))


def sampled() -> Any:
    data = graph()
    data.n_id = torch.arange(data.num_nodes)
    return data


@pytest.mark.parametrize(
    ("graphs", "told"),
    [
        ([torch.zeros(3)], "a batch is a Tensor, not a torch_geometric Data with an edge_index"),
        ([pyg.data.HeteroData()], "a batch is a HeteroData, not"),
        ([pyg.data.Data(x=torch.zeros(3, 6))], "a batch is a Data, not"),
        ([sampled()], "holds n_id, so it is a sampled part of a graph: give one whole graph"),
        ([graph(), graph()], "an epoch has 2 batches; one whole graph"),
    ],
)
def test_what_is_not_one_whole_graph_is_refused(
    tmp_path: Path, graphs: list[Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told) as raised:
        trainer(tmp_path, EdgePruning()).fit(module(), loader(*graphs))
    assert "\n" not in str(raised.value)


def test_another_graph_to_validate_on_is_refused(tmp_path: Path) -> None:
    other = graph()
    other.edge_index = other.edge_index[:, 1:]
    with pytest.raises(ValueError, match=r"another than the first one.*validation and test too"):
        trainer(tmp_path, EdgePruning()).fit(module(), loader(graph()), loader(other))


def test_edges_that_change_in_place_are_noticed(tmp_path: Path) -> None:
    data = graph()

    class Rewires(pl.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            data.edge_index[0, 0] += 1

    with pytest.raises(ValueError, match="another than the first one"):
        trainer(tmp_path, EdgePruning(), Rewires()).fit(module(), loader(data))


def test_before_a_graph_is_seen_there_is_no_ticket() -> None:
    with pytest.raises(ValueError, match="has not seen a graph yet"):
        _ = EdgePruning().ticket
