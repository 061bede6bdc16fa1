"""A training step of a GCN on Cora: sparse features against dense ones, as tutorials have them.

LTPL_DATA=data python -m experiments.speed.graph
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout
from torch_geometric.nn import GCNConv

from experiments.speed.ratios import Spread
from experiments.speed.turns import rounds
from ltpl.data import Planetoid
from ltpl.models import GCN

COUNT, STEPS = 9, 20
HEAD = (
    "hidden",
    "`GCN`, ms",
    "PyG, dropout on dense features / `GCN`",
    "PyG, dense, no dropout on them / `GCN`",
    "n",
    "others",
)


class Tutorial(nn.Module):
    """The two layers of PyG's introduction, the adjacency cached."""

    def __init__(self, hidden: int, dropped: bool):
        super().__init__()
        self.first, self.second = (
            GCNConv(1433, hidden, cached=True),
            GCNConv(hidden, 7, cached=True),
        )
        self.dropped = dropped

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        if self.dropped:
            x = dropout(x, 0.5, self.training)
        x = dropout(self.first(x, edges).relu(), 0.5, self.training)
        out: Tensor = self.second(x, edges)
        return out


def stepper(network: nn.Module, x: Tensor, graph: Any) -> Callable[[], float]:
    """Return a function that trains a few steps and returns the median time of one."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=5e-4)

    def steps() -> float:
        times = []
        for _ in range(STEPS):
            start = time.perf_counter()
            optimizer.zero_grad()
            logits = network(x, graph.edge_index)[graph.train_mask]
            cross_entropy(logits, graph.y[graph.train_mask]).backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    return steps


def measure(hidden: int) -> dict[str, Any]:
    """Return the time of a step, and of what takes longer as ratios to it."""
    data = Planetoid(os.environ.get("LTPL_DATA", "data"))
    data.setup("fit")
    graph, dense = data.graph, data.graph.x.to_dense()
    variants = {
        "sparse": stepper(GCN(hidden=hidden), graph.x, graph),
        "tutorial": stepper(Tutorial(hidden, dropped=True), dense, graph),
        "no dropout": stepper(Tutorial(hidden, dropped=False), dense, graph),
    }
    times = rounds(lambda: {name: steps() for name, steps in variants.items()}, COUNT)
    return {
        "hidden": hidden,
        "sparse_ms": Spread.of([1000 * t for t in times["sparse"]]).json(),
        "tutorial": Spread.of_ratios(times["tutorial"], times["sparse"]).json(),
        "no_dropout": Spread.of_ratios(times["no dropout"], times["sparse"]).json(),
        "disturbed": round(max(times["disturbed"]), 3),
    }


def row(found: dict[str, Any]) -> list[str]:
    """Return a row of the table."""
    spreads = [str(Spread(**found[name])) for name in ("sparse_ms", "tutorial", "no_dropout")]
    return [str(found["hidden"]), *spreads, str(COUNT), f"{found['disturbed']:.0%}"]


if __name__ == "__main__":
    for hidden in (16, 64):
        print(row(measure(hidden)))
