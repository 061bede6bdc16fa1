"""Rounds of every graph network: what is pruned, and what of a node's features stays alive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import find

from ltpl.data.graphs import StochasticBlockModel
from ltpl.models.graph import GAT, GCN, GIN, GraphSAGE
from ltpl.modules.node import NodeClassifier

pytest.importorskip("torch_geometric")
INPUTS, HIDDEN, OUTPUTS = 16, 8, 4
MASKED = {
    GCN: ["hidden.0.lin", "output.lin"],
    GAT: ["hidden.0.lin", "output.lin"],
    GIN: ["hidden.0.nn.0", "hidden.0.nn.3", "output.nn.0", "output.nn.3"],
    GraphSAGE: ["hidden.0.lin_l", "hidden.0.lin_r", "output.lin_l", "output.lin_r"],
}


@pytest.mark.parametrize("kind", MASKED, ids=lambda kind: kind.__name__)
def test_weights_of_every_graph_network_are_pruned_and_nothing_else(
    kind: Any, tmp_path: Path
) -> None:
    def make() -> NodeClassifier:
        return NodeClassifier(kind(inputs=INPUTS, hidden=HIDDEN, outputs=OUTPUTS))

    def data() -> StochasticBlockModel:
        return StochasticBlockModel(nodes=12, features=INPUTS)

    prune = {"amount": 0.6, "scope": "layer"}
    run = find(tmp_path, make_model=make, make_data=data, levels=2, prune=prune)
    names = [f"network.{layer}.weight" for layer in MASKED[kind]]
    weights = dict(make().named_parameters())
    assert list(run.mask(0)) == names
    assert not any("att" in name for name in names)
    assert run.results[0].total == sum(weights[name].numel() for name in names)
    assert [result.kept for result in run.results] == [
        pytest.approx(run.results[0].total * 0.4**level, abs=len(names)) for level in range(3)
    ]
    for result in run.results:
        assert result.inputs == INPUTS
        assert 0 < result.live_inputs <= INPUTS
    assert run.results[0].live_inputs == INPUTS
    assert run.results[2].live_paths < run.results[1].live_paths < run.results[0].live_paths
