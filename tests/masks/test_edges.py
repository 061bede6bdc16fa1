from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from ltpl.masks.edges import Edges, by_chance, by_degree, by_features, homophily, strongest

NODES = 12


def directed_graph(edges: int = 60, nodes: int = NODES) -> Tensor:
    """Edges with and without their reverse, twice over, and self-loops."""
    index = torch.randint(nodes, (2, edges))
    return torch.cat([index, index.flip(0)[:, : edges // 2], index[:, :3]], dim=1)


def pairs(index: Tensor) -> list[tuple[int, int]]:
    return [(min(u, v), max(u, v)) for u, v in index.T.tolist()]


def test_both_directions_are_one_edge_and_self_loops_are_none() -> None:
    index = directed_graph()
    edges = Edges.of(index)
    expected = sorted({(u, v) for u, v in pairs(index) if u != v})
    assert list(zip(*edges.ends.tolist(), strict=True)) == expected
    assert edges.total == len(expected)
    for (u, v), place in zip(pairs(index), edges.place.tolist(), strict=True):
        assert place == (-1 if u == v else expected.index((u, v)))


def test_all_that_belongs_to_an_edge_goes_with_it() -> None:
    index = directed_graph()
    edges = Edges.of(index)
    keep = torch.rand(edges.total) < 0.5
    alive = set(map(tuple, edges.ends[:, keep].T.tolist()))
    left = index[:, edges.positions(keep)]
    proper = [pair for pair in index.T.tolist() if tuple(sorted(pair)) in alive]
    loops = [pair for pair in index.T.tolist() if pair[0] == pair[1]]
    assert left.T.tolist() == proper + loops


def test_a_graph_that_is_not_touched_is_the_same() -> None:
    index = directed_graph()
    index = index[:, index[0] != index[1]]
    edges = Edges.of(index)
    assert torch.equal(index[:, edges.positions(edges.all())], index)
    index[0, 0] += 1
    assert not torch.equal(edges.index, index)  # it has a copy


@pytest.mark.parametrize("index", [torch.zeros(2, 0).long(), torch.tensor([[1, 2], [1, 2]])])
def test_there_may_be_no_edge(index: Tensor) -> None:
    edges = Edges.of(index)
    assert edges.total == 0
    assert edges.positions(edges.all()).tolist() == [*range(index.shape[1])]


@pytest.mark.parametrize("index", [torch.zeros(3, 4).long(), torch.zeros(2, 4), torch.zeros(4)])
def test_what_is_no_edge_index_is_refused(index: Tensor) -> None:
    with pytest.raises(ValueError, match="two rows of int64 are needed"):
        Edges.of(index)


def test_just_so_many_stay_and_of_equals_the_first() -> None:
    for _ in range(20):
        scores = torch.randint(4, (30,)).float()
        keep = torch.rand(30) < 0.7
        number = int(torch.randint(int(keep.sum()) + 1, (1,)))
        ranked = sorted(keep.nonzero().flatten().tolist(), key=lambda i: (-scores[i], i))
        found = strongest(scores, keep, number)
        assert found.nonzero().flatten().tolist() == sorted(ranked[:number])


def test_an_order_decides_between_equals_alone() -> None:
    scores, order = torch.randint(3, (30,)), torch.randperm(30)
    ranked = sorted(range(30), key=lambda i: (-scores[i], order[i]))
    found = strongest(scores, torch.ones(30).bool(), 11, order)
    assert found.nonzero().flatten().tolist() == sorted(ranked[:11])


def test_scores_that_are_no_numbers_are_refused_where_they_matter() -> None:
    scores, keep = torch.tensor([1.0, float("nan")]), torch.tensor([True, False])
    assert strongest(scores, keep, 1).tolist() == [True, False]
    with pytest.raises(ValueError, match="has training diverged"):
        strongest(scores, ~keep, 1)


def test_chance_depends_on_every_seed_and_not_on_the_global_state() -> None:
    orders = [
        by_chance(50, *seeds) for seeds in [("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1)]
    ]
    assert len({tuple(order.tolist()) for order in orders}) == 4
    torch.manual_seed(7)
    assert torch.equal(by_chance(50, "a", 0, 0), orders[0])
    assert sorted(orders[0].tolist()) == [*range(50)]


def test_edges_between_hubs_go_first() -> None:
    edges = Edges.of(directed_graph())
    keep = torch.rand(edges.total) < 0.7
    degree = Counter(edges.ends[:, keep].flatten().tolist())
    expected = [-degree[u] * degree[v] for u, v in edges.ends.T.tolist()]
    assert by_degree(edges.ends, keep).tolist() == expected


@pytest.mark.parametrize("layout", [torch.strided, torch.sparse_csr, torch.sparse_coo])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_features_are_compared_by_jaccard(
    layout: torch.layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltpl.masks.edges.AT_ONCE", 7)
    x = torch.randn(NODES, 9) * (torch.rand(NODES, 9) < 0.4)
    x[3] = x[4] = 0
    ends = Edges.of(directed_graph()).ends
    has = [{j for j in range(9) if x[i, j]} for i in range(NODES)]
    expected = [len(has[u] & has[v]) / max(1, len(has[u] | has[v])) for u, v in ends.T.tolist()]
    given = {torch.strided: x, torch.sparse_csr: x.to_sparse_csr()}.get(layout, x.to_sparse())
    assert by_features(given, ends).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("x", [None, torch.randn(NODES, 5), torch.eye(NODES)])
def test_features_that_tell_no_edges_apart_are_refused(x: Tensor | None) -> None:
    with pytest.raises(ValueError, match="criterion='jaccard' compares"):
        by_features(x, Edges.of(directed_graph()).ends)


def test_homophily_counts_kept_edges_with_two_known_labels() -> None:
    edges = Edges.of(directed_graph())
    keep, labels = torch.rand(edges.total) < 0.7, torch.randint(-1, 3, (NODES,))
    known = [
        labels[u] == labels[v]
        for u, v in edges.ends[:, keep].T.tolist()
        if labels[u] >= 0 and labels[v] >= 0
    ]
    assert homophily(labels, edges.ends, keep) == pytest.approx(sum(known) / len(known))
    assert homophily(torch.full_like(labels, -1), edges.ends, keep) is None
