"""What a network computes, as it is recorded: names, changes in place, what cannot be followed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ltpl.compaction import CompactionError
from ltpl.compaction.graph import operation, owner, trace


class Code(nn.Module):
    def __init__(self, line: object) -> None:
        super().__init__()
        self.line, self.norm = line, nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(self.norm(x))  # type: ignore[operator, no-any-return]


X = (torch.randn(3, 4),)


def test_tied_tensors_have_one_name() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    names = set(trace(net, X).tensors.values())
    assert names == {"0.weight", "0.bias", "1.bias"}


def test_operations_know_their_module() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(inplace=True)))
    nodes = [n for n in trace(net, X).nodes if n.op == "call_function"]
    assert [(operation(n), owner(n)) for n in nodes] == [("linear", "0"), ("relu", "1.0")]


def test_what_is_changed_in_place_is_read_as_changed() -> None:
    def line(x: Tensor) -> Tensor:
        y = x * 2
        y.relu_()
        return y + 1

    graph = trace(Code(line), X)
    add = next(n for n in graph.nodes if operation(n) == "add" and n.op == "call_function")
    assert operation(graph.operands[add]["self"]) == "relu"


@pytest.mark.parametrize(
    "line",
    [
        lambda x: (v := x.view(-1), v.relu_(), x + 1)[2],
        lambda x: (v := x.broadcast_to(2, 3, 4), x.mul_(2), v + 1)[2],
        lambda x: (v := x[:, :2], x.relu_(), v + 1)[2],
        lambda x: (v := x.t(), x.relu_(), v + 1)[2],
    ],
)
def test_a_view_of_what_is_changed_is_refused(line: object) -> None:
    with pytest.raises(CompactionError, match="in place"):
        trace(Code(line), X)


def test_control_flow_that_depends_on_data_is_refused_in_one_line() -> None:
    net = Code(lambda x: x + 1 if x.sum() > 0 else x - 1)
    with pytest.raises(CompactionError) as refused:
        trace(net, X)
    assert "torch.export cannot follow Code" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_network_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).train()
    net[1].eval()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    trace(net, X)
    assert [m.training for m in net] == [True, False, True]
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
