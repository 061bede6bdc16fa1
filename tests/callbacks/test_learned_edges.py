"""Edge weights that are trained along: the same as by hand, in any layer, and resumed exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graph_fits import Convolutions, gin, graph, layers, loader, module, trainer
from processes import run
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ltpl.callbacks import EdgePruning, Every
from ltpl.callbacks.edge_weights import LearnedEdges, WeighedLayers
from ltpl.masks.edges import Edges
from ltpl.models.graph import GAT, GCN, GIN, GraphSAGE
from ltpl.modules.node import NodeClassifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]
LR, L1, STEPS = 0.3, 0.05, 5


def by_hand(net: nn.Module, data: Any, steps: int = STEPS) -> Tensor:
    """Graph sparsification in plain torch (Chen et al., 2021), undirected, never below zero."""
    edges = Edges.of(data.edge_index)
    mask = torch.ones(edges.total, requires_grad=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02, weight_decay=1e-3)
    of_mask = torch.optim.Adam([mask], lr=LR)
    for _ in range(steps):
        weight = mask[edges.place]
        if data.edge_weight is not None:
            weight = weight * data.edge_weight
        logits = net(data.x, data.edge_index, weight)
        loss = cross_entropy(logits[data.train_mask], data.y[data.train_mask])
        optimizer.zero_grad()
        of_mask.zero_grad()
        loss.backward()
        mask.grad += L1 * torch.sign(mask.detach())
        of_mask.step()
        optimizer.step()
        mask.data.clamp_(min=0)
    return mask.detach()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", [Convolutions, partial(GCN, 6, 8, 3, dropout=0.3)])
def test_a_step_has_the_bits_of_one_by_hand(
    tmp_path: Path, kind: Callable[[], nn.Module], weighted: bool
) -> None:
    data = graph()
    if weighted:
        data.edge_weight = torch.rand(data.num_edges) + 0.5
    net = kind()
    twin, edges = copy.deepcopy(net), EdgePruning(0.2, lr=LR, l1=L1, epoch=STEPS + 1)
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="never pruned"):
        trainer(tmp_path, edges, max_epochs=STEPS).fit(module(net), loader(data))
    torch.manual_seed(3)
    expected = by_hand(twin, data)
    assert (expected == 0).any()
    # a weight of the graph is multiplied in each layer, and gradients are added up after it
    equal = partial(torch.allclose, atol=1e-6) if weighted else torch.equal
    assert equal(edges._learned.values, expected)
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert equal(ours, theirs)


def test_edges_of_the_smallest_weight_go_and_the_others_weigh_one_again(tmp_path: Path) -> None:
    data, net = graph(), Convolutions()
    twin, edges = copy.deepcopy(net), EdgePruning(0.3, lr=0.05, l1=L1, epoch=STEPS)
    weights: list[Tensor] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            weights.append(edges._learned.values.detach().clone())

    trainer(tmp_path, edges, Look(), max_epochs=STEPS + 1).fit(module(net), loader(data))
    last, keep = weights[STEPS - 1], edges.ticket.keep
    assert last[~keep].max() <= last[keep].min()
    after = weights[STEPS]
    assert not after[~keep].any()
    assert torch.allclose(after[keep], torch.ones(()), atol=0.06)  # one step from one
    assert not torch.equal(twin.first.lin.weight, net.first.lin.weight)


@pytest.mark.parametrize("kind", [GCN, GAT, GIN, GraphSAGE])
@pytest.mark.parametrize("loops", [0, 30])
def test_every_network_of_ours_learns(tmp_path: Path, kind: Any, loops: int) -> None:
    data, edges = graph(loops), EdgePruning(0.3, epoch=1)
    plain = NodeClassifier(kind(inputs=6, hidden=4, outputs=3))
    fit = trainer(tmp_path, edges, max_epochs=6)
    fit.fit(plain, loader(data), loader(data))
    fit.test(plain, loader(data), verbose=False)
    values = edges._learned.values.detach()
    assert torch.equal(values > 0, edges.ticket.keep)
    assert len(values.unique()) > 3
    assert all(layer.explain is None for layer in plain.modules() if hasattr(layer, "explain"))


def dense(index: Tensor, weight: Tensor, nodes: int) -> Tensor:
    matrix = torch.zeros(nodes, nodes)
    matrix.index_put_((index[1], index[0]), weight, accumulate=True)
    return matrix


def mean(conv: Any, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    heard = dense(index, weight, len(x)) / index[1].bincount(minlength=len(x))[:, None].clamp(min=1)
    return conv.lin_l(heard @ x) + conv.lin_r(x)


def attention(conv: Any, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    (all_of, alpha) = conv(x, index, return_attention_weights=True)[1]
    given = {tuple(edge): w for edge, w in zip(index.T.tolist(), weight, strict=True)}
    kept = torch.stack([given.get((u, v), torch.ones(())) for u, v in all_of.T.tolist()])
    return dense(all_of, alpha.flatten() * kept, len(x)) @ conv.lin(x) + conv.bias


def total(conv: Any, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    return conv.nn((1 + conv.eps) * x + dense(index, weight, len(x)) @ x)


@pytest.mark.parametrize("loops", [0, 7, 30])
@pytest.mark.parametrize(
    ("make", "expected"), [(layers.SAGEConv, mean), (layers.GATConv, attention), (gin, total)]
)
def test_messages_are_weighed_and_self_loops_are_not(make: Any, expected: Any, loops: int) -> None:
    data = graph(loops)
    edges = Edges.of(data.edge_index)
    place = edges.positions(edges.all())
    data.edge_index = data.edge_index[:, place]
    weight = torch.rand(data.num_edges)
    weight[data.edge_index[0] == data.edge_index[1]] = 1
    net = nn.Sequential(make(6, 4))
    with WeighedLayers(net).weighed(data, weight):
        found = net[0](data.x, data.edge_index)
    assert torch.allclose(
        found, expected(net[0], data.x, data.edge_index, weight), atol=1e-5, rtol=1e-4
    )
    assert torch.equal(net[0](data.x, data.edge_index), net[0](data.x, data.edge_index))
    assert not torch.allclose(net[0](data.x, data.edge_index), found)


def test_an_edge_of_weight_zero_is_none_for_a_convolution() -> None:
    data, conv = graph(loops=5), Convolutions()
    edges = Edges.of(data.edge_index)
    keep = torch.rand(edges.total) < 0.5
    weight = torch.where(edges.place < 0, torch.ones(()), keep[edges.place].float())
    with WeighedLayers(conv).weighed(data, weight):
        weighed = conv(data.x, data.edge_index)
    removed = conv(data.x, data.edge_index[:, edges.positions(keep)])
    assert torch.allclose(weighed, removed, atol=1e-6)


class Looped(Convolutions):
    """Adds self-loops itself, so its layers see other edges than the graph has."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        loops = torch.arange(len(x)).expand(2, -1)
        return super().forward(x, torch.cat([edge_index, loops], dim=1))


class Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor | None = None) -> Tensor:
        return self.net(x)


class Own(Deaf):
    """A layer that is not of PyG, over the graph's `edge_weight`."""

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor | None = None) -> Tensor:
        assert weight is not None
        return self.net(dense(edge_index, weight, len(x)) @ x)


def unexplained(inputs: int, outputs: int) -> nn.Module:
    conv = layers.SAGEConv(inputs, outputs)
    conv.explain = False
    return conv


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (Looped, r"net\.first is called with other edges than those of the graph"),
        (Deaf, "no gradient reaches the weights of the edges"),
        (
            partial(Convolutions, unexplained),
            r"cannot weigh the edges of net\.first, a SAGEConv: .* explain=False",
        ),
        (
            partial(Convolutions, partial(layers.SAGEConv, decomposed_layers=2)),
            r"net\.first, a SAGEConv: .* decomposed_layers=2",
        ),
    ],
)
def test_what_cannot_learn_is_refused(tmp_path: Path, net: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told) as raised:
        trainer(tmp_path, EdgePruning()).fit(module(net()), loader(graph()))
    assert "\n" not in str(raised.value)
    assert "criterion='random', 'jaccard' or 'degree'" in str(raised.value)


@pytest.mark.parametrize("net", [Looped, Deaf, partial(Convolutions, unexplained)])
def test_leaving_edges_out_asks_nothing_of_the_layers(tmp_path: Path, net: Any) -> None:
    edges = EdgePruning(criterion="random")
    trainer(tmp_path, edges).fit(module(net()), loader(graph()))
    assert edges.ticket.kept < edges.ticket.total


def test_a_network_without_layers_of_pyg_finds_the_weights_in_the_graph(tmp_path: Path) -> None:
    edges = EdgePruning(0.5, epoch=1)
    trainer(tmp_path, edges, max_epochs=6).fit(module(Own()), loader(graph()))
    assert len(edges._learned.values.unique()) > 3


def test_manual_optimisation_learns_too(tmp_path: Path) -> None:
    plain, edges = module(), EdgePruning(lr=LR, l1=L1, epoch=STEPS + 1)
    twin, data = copy.deepcopy(plain.net), graph()
    automatic = plain.training_step
    plain.automatic_optimization = False

    def training_step(batch: Any, batch_idx: int) -> None:
        optimizer = plain.optimizers()
        optimizer.zero_grad()
        plain.manual_backward(automatic(batch, batch_idx))
        optimizer.step()

    plain.training_step = training_step
    with pytest.warns(UserWarning, match="never pruned"):
        trainer(tmp_path, edges, max_epochs=STEPS).fit(plain, loader(data))
    assert torch.equal(edges._learned.values, by_hand(twin, data))


def test_a_fit_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path: Path) -> None:
    data, plain = graph(), module()
    twin = copy.deepcopy(plain)
    edges, again = (EdgePruning(0.2, lr=LR / 5, epoch=Every(3)) for _ in range(2))
    keep_all = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    options: dict[str, Any] = {"max_epochs": 9, "enable_checkpointing": True}
    trainer(tmp_path, edges, keep_all, **options).fit(plain, loader(data))
    for epoch in (1, 4, 8):
        found = copy.deepcopy(twin)
        saved = tmp_path / f"epoch={epoch}.ckpt"
        torch.load(saved, weights_only=True)
        fit = trainer(tmp_path, again, **(options | {"enable_checkpointing": False}))
        fit.fit(found, loader(data), ckpt_path=saved)
        assert torch.equal(again.ticket.keep, edges.ticket.keep)
        assert torch.equal(again._learned.values, edges._learned.values)
        for one, other in zip(found.parameters(), plain.parameters(), strict=True):
            assert torch.equal(one, other)
    assert again.pruned_at == edges.pruned_at == [3, 6, 9]


def test_a_checkpoint_of_another_graph_is_refused(tmp_path: Path) -> None:
    data, plain = graph(), module()
    fit = trainer(tmp_path, EdgePruning(epoch=1))
    fit.fit(plain, loader(data))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    data.edge_index = data.edge_index[:, 40:]
    again = trainer(tmp_path, EdgePruning(epoch=1))
    with pytest.raises(ValueError, match="the checkpoint is of a graph of"):
        again.test(plain, loader(data), ckpt_path=tmp_path / "last.ckpt", verbose=False)


def test_scaled_gradients_count_unscaled_and_overflows_not_at_all() -> None:
    gradient = torch.randn(6)
    plain, scaled = (LearnedEdges(torch.ones(6).bool(), LR, L1) for _ in range(2))
    scaler = SimpleNamespace(get_scale=lambda: 8.0)
    for learned, factor, used in ((plain, 1.0, None), (scaled, 8.0, scaler)):
        trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=used), world_size=1)
        learned.values.grad = factor * gradient
        learned.step(trainer)
        assert learned.values.grad is None
    assert torch.equal(plain.values, scaled.values)
    scaled.values.grad = torch.full((6,), float("inf"))
    scaled.step(trainer)
    assert torch.equal(plain.values, scaled.values)


@pytest.mark.slow
def test_two_processes_learn_the_same_edges(tmp_path: Path) -> None:
    run("edges_two_processes.py", tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    expected = torch.load(tmp_path / "by_hand.pt")
    assert torch.equal(first["keep"], second["keep"])
    assert torch.equal(first["values"], second["values"])
    assert torch.allclose(first["values"], expected, atol=1e-5)
    assert not first["keep"].all()
