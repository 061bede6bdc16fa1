"""Numbers of channels in a module's own code: replaced where written, left where computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from ltpl.compaction.literals import with_literals
from ltpl.compaction.spec import Literal


class Code(nn.Module):
    """A network whose `forward` is one line."""

    def __init__(self, line: object) -> None:
        super().__init__()
        self.line, self.drop = line, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(x)  # type: ignore[operator, no-any-return]


X = torch.randn(2, 6, 4, 4)
WRITTEN = {
    "view": (lambda x: x.view(-1, 96), Literal("", "view", [-1, 96], [-1, 48])),
    "reshape": (lambda x: torch.reshape(x, (2, 96)), Literal("", "reshape", [2, 96], [2, 48])),
    "pad": (
        lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)),
        Literal("", "pad", [0, 0, 0, 0, 2, 2], [0, 0, 0, 0, 1, 0]),
    ),
    "slice": (lambda x: x[:, 1:5], Literal("", "slice", [1, 1, 5], [1, 0, 2])),
    "split": (
        lambda x: torch.cat(x.split([2, 4], 1)[::-1], 1),
        Literal("", "split_with_sizes", [2, 4], [1, 2]),
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_number_that_is_written_is_replaced(name: str) -> None:
    line, literal = WRITTEN[name]
    net = Code(line)
    small = X[:, :3]
    new = with_literals(net, [literal])
    assert isinstance(new, GraphModule)
    found = new(small)
    assert found.shape[1:] != net(X).shape[1:]
    expected = {
        "view": lambda: small.reshape(-1, 48),
        "reshape": lambda: small.reshape(2, 48),
        "pad": lambda: F.pad(small, (0, 0, 0, 0, 1, 0)),
        "slice": lambda: small[:, 0:2],
        "split": lambda: torch.cat([small[:, 1:], small[:, :1]], 1),
    }
    torch.testing.assert_close(found, expected[name]())


@pytest.mark.parametrize(
    ("line", "literal"),
    [
        (lambda x: x.view(x.size(0), -1), Literal("", "view", [2, -1], [2, -1])),
        (lambda x: x.view(x.shape[0], x.shape[1] * 16), Literal("", "view", [2, 96], [2, 48])),
        (lambda x: x[:, : x.shape[1] // 2], Literal("", "slice", [1, 0, 3], [1, 0, 2])),
        (lambda x: x.view(-1, 32), Literal("", "view", [-1, 96], [-1, 48])),
    ],
)
def test_a_number_that_is_computed_or_another_is_left(line: object, literal: Literal) -> None:
    net = Code(line)
    assert with_literals(net, [literal]) is net


def test_code_that_depends_on_data_or_mode_is_left() -> None:
    def by_data(x: Tensor) -> Tensor:
        return x.view(-1, 96) if x.sum() > 0 else x

    class ByMode(Code):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x.view(-1, 96), training=self.training)

    literal = Literal("", "view", [-1, 96], [-1, 48])
    for net in (Code(by_data), ByMode(None)):
        assert with_literals(net, [literal]) is net
        assert net.training


def test_a_module_inside_is_replaced_in_place_and_keeps_its_children() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(96, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.view(-1, 96))

    net = nn.Sequential(nn.Identity(), Inner()).eval()
    names, layer = list(net.state_dict()), net[1].layer
    new = with_literals(net, [Literal("1", "view", [-1, 96], [-1, 48])])
    assert new is net
    assert net[1].layer is layer
    assert list(net.state_dict()) == names
    assert not net[1].training
    assert type(net[1]).__name__ == "Inner"
