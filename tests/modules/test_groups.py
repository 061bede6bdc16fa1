from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ltpl.modules.groups import parameter_groups


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def named(net: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    names = {id(p): name for name, p in net.named_parameters()}
    return [names[id(p)] for p in parameters]


def test_by_default_all_parameters_come_as_they_are() -> None:
    net = network()
    assert named(net, parameter_groups(net, ())) == [name for name, _ in net.named_parameters()]


@pytest.mark.parametrize(
    ("no_decay", "without"),
    [
        (["norm"], ["1.weight", "1.bias"]),
        (["bias"], ["0.bias", "1.bias", "3.bias"]),
        (["norm", "bias"], ["0.bias", "1.weight", "1.bias", "3.bias"]),
        (["3.*"], ["3.weight", "3.bias"]),
        ("3.weight", ["3.weight"]),
        (["3.weight", "0.*"], ["0.weight", "0.bias", "3.weight"]),
    ],
)
def test_kinds_names_and_globs_get_no_decay(no_decay: Any, without: list[str]) -> None:
    net = network()
    groups = parameter_groups(net, no_decay)
    assert named(net, groups[1]["params"]) == without
    assert groups[1]["weight_decay"] == 0
    assert "weight_decay" not in groups[0]
    everything = [name for name, _ in net.named_parameters()]
    assert named(net, groups[0]["params"]) == [name for name in everything if name not in without]


def test_an_optimiser_decays_the_others_only() -> None:
    net = network()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    groups = parameter_groups(net, ["norm", "3.*"])
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.5)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        factor = 0.95 if name.startswith("0.") else 1
        torch.testing.assert_close(parameter.detach(), factor * before[name])


@pytest.mark.parametrize("no_decay", [(), ("bias",)])
def test_frozen_parameters_are_left_out(no_decay: tuple[str, ...]) -> None:
    net = network()
    net[0].requires_grad_(False)
    groups = parameter_groups(net, no_decay)
    found = groups if not no_decay else [p for group in groups for p in group["params"]]
    assert sorted(named(net, found)) == ["1.bias", "1.weight", "3.bias", "3.weight"]


def test_shared_parameters_come_once_and_any_name_counts() -> None:
    net = nn.ModuleDict({"first": nn.Linear(3, 3), "second": nn.Linear(3, 3)})
    net["second"].weight = net["first"].weight
    assert len(parameter_groups(net, ())) == 3
    decayed, spared = parameter_groups(net, ["second.weight"])
    assert spared["params"] == [net["first"].weight]
    assert len(decayed["params"]) == 2


def test_a_group_that_would_be_empty_is_left_out() -> None:
    groups = parameter_groups(network(), ["*"])
    assert [group["weight_decay"] for group in groups] == [0]
    net = nn.Linear(3, 3, bias=False)
    assert parameter_groups(net, ["norm", "bias"]) == [{"params": [net.weight]}]


def test_norms_of_libraries_are_known_by_their_name() -> None:
    class RMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    net = nn.Sequential(nn.LayerNorm(3), nn.GroupNorm(1, 3), RMSNorm(), nn.Linear(3, 3))
    assert len(parameter_groups(net, ["norm"])[1]["params"]) == 5


def test_layers_of_pyg_are_named_too() -> None:
    pyg = pytest.importorskip("torch_geometric.nn")
    net = nn.ModuleList([pyg.GCNConv(4, 3), pyg.BatchNorm(3), pyg.GCNConv(3, 2)])
    spared = parameter_groups(net, ["2.*", "norm"])[1]["params"]
    assert named(net, spared) == ["1.module.weight", "1.module.bias", "2.bias", "2.lin.weight"]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("norms", " Did you mean 'norm'?"),
        ("3.wieght", " Did you mean '3.weight'?"),
        ("output.*", ""),
    ],
)
def test_a_pattern_that_matches_nothing_is_named_with_the_nearest(pattern: str, hint: str) -> None:
    with pytest.raises(ValueError, match="matches no parameter") as raised:
        parameter_groups(network(), ["bias", pattern])
    assert str(raised.value) == (
        f"no_decay={pattern!r} matches no parameter of the network; give norm, bias, a name or a "
        f"glob.{hint}"
    )


@pytest.mark.parametrize("no_decay", [(), ("bias",)])
def test_a_network_that_is_frozen_has_nothing_to_train(no_decay: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^Nothing to train: no parameter of the network has"):
        parameter_groups(network().requires_grad_(False), no_decay)
