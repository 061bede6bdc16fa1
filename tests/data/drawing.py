"""Stands for torch-sparse where it is not installed: PyG's `NeighborLoader` runs on it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor


def neighbor_sample(
    colptr: Tensor, row: Tensor, seeds: Tensor, numbers: list[int], replace: bool, directed: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw from the neighbours of the nodes that each step has found, as torch-sparse does."""
    assert directed
    assert not replace
    nodes = seeds.tolist()
    place = {node: number for number, node in enumerate(nodes)}
    edges: list[tuple[int, int, int]] = []
    begin = 0
    for number in numbers:
        end = len(nodes)
        for target in range(begin, end):
            first, last = colptr[nodes[target]].item(), colptr[nodes[target] + 1].item()
            order = torch.randperm(int(last - first))[: None if number < 0 else number]
            for edge in (order + first).tolist():
                source = int(row[edge])
                if source not in place:
                    place[source] = len(nodes)
                    nodes.append(source)
                edges.append((place[source], target, edge))
        begin = end
    found = torch.tensor(edges, dtype=torch.int64).view(-1, 3)
    return torch.tensor(nodes), found[:, 0], found[:, 1], found[:, 2]


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyG draw neighbours, with its own library where there is one."""
    typing = pytest.importorskip("torch_geometric.typing")
    if typing.WITH_PYG_LIB or typing.WITH_TORCH_SPARSE:
        return
    monkeypatch.setattr(typing, "WITH_TORCH_SPARSE", True)
    stands = SimpleNamespace(neighbor_sample=neighbor_sample)
    monkeypatch.setattr(torch.ops, "torch_sparse", stands, raising=False)
