from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, max_pool2d, relu

from ltpl.models import MLP, LeNet5, LeNet300
from ltpl.models.initialise import INITIALISERS, initialise_

EXPECTED_STD = {
    "default": lambda fan_in, fan_out: 1 / math.sqrt(3 * fan_in),
    "glorot_normal": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "kaiming_normal": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "orthogonal": lambda fan_in, fan_out: 1 / math.sqrt(max(fan_in, fan_out)),
}


def linears(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


def redrawn(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(math.nan)
        for module in reversed(list(network.modules())):
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return network


def assert_drawn_as(network: nn.Module, init: str) -> None:
    for layer in linears(network):
        expected = EXPECTED_STD[init](layer.in_features, layer.out_features)
        error = 5 / math.sqrt(2 * layer.weight.numel())  # five deviations of a sample deviation
        assert abs(float(layer.weight.detach().std()) / expected - 1) < error
        assert abs(float(layer.weight.detach().mean())) < 5 * expected / layer.weight.numel() ** 0.5
        assert bool(layer.bias.any()) == (init == "default")


def test_lenet_has_the_parameters_of_the_paper() -> None:
    network = LeNet300()
    assert sum(p.numel() for p in network.parameters()) == 266_610
    assert [tuple(layer.weight.shape) for layer in linears(network)] == [
        (300, 784),
        (100, 300),
        (10, 100),
    ]
    assert network.get_submodule(LeNet300.output_layer) is linears(network)[-1]
    assert network(torch.rand(3, 1, 28, 28)).shape == (3, 10)


def test_lenet_starts_with_gaussian_glorot_weights_and_zero_biases() -> None:
    network = LeNet300()
    assert network.init == "glorot_normal"
    assert_drawn_as(network, "glorot_normal")
    weight = linears(network)[0].weight.detach()
    beyond = (weight.abs() > 2 * weight.std()).float().mean()
    assert abs(float(beyond) - 0.0455) < 0.005  # of a normal distribution, not of a uniform one


@pytest.mark.parametrize("init", INITIALISERS)
@pytest.mark.parametrize("kind", [LeNet300, MLP])
def test_redrawing_gives_the_distribution_of_the_start(kind: type[MLP], init: str) -> None:
    network = kind(inputs=784, init=init)
    assert_drawn_as(network, init)
    before = linears(network)[0].weight.detach().clone()
    assert_drawn_as(redrawn(network), init)
    assert not torch.equal(linears(network)[0].weight, before)


def test_orthogonal_rows_are_orthonormal() -> None:
    weight = linears(LeNet300(init="orthogonal"))[0].weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(300), atol=1e-4, rtol=0)


def test_the_default_draws_no_random_number_more_than_the_layers_do() -> None:
    torch.manual_seed(3)
    network = MLP(inputs=8, hidden=[6], outputs=4)
    torch.manual_seed(3)
    layers = [nn.Linear(8, 6), nn.Linear(6, 4)]
    for ours, theirs in zip(linears(network), layers, strict=True):
        assert torch.equal(ours.weight, theirs.weight)


def test_convolutions_are_drawn_and_layers_without_bias_too() -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64))
    initialise_(network, "kaiming_normal")
    std = float(network[0].weight.detach().std())
    assert abs(std / math.sqrt(2 / 27) - 1) < 5 / math.sqrt(2 * 1728)
    assert torch.equal(network[1].weight, torch.ones(64))


@pytest.mark.parametrize(
    ("name", "hint"), [("glorot_norml", " Did you mean 'glorot_normal'?"), ("zzz", "")]
)
def test_an_unknown_initialiser_is_named_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match="are known") as raised:
        LeNet300(init=name)
    known = "default, glorot_normal, kaiming_normal, orthogonal"
    assert str(raised.value) == f"init={name!r}: {known} are known.{hint}"


# 431K in Han et al. (2015), table 1; 60,000 in LeCun et al. (1998), section II.B, whose second
# convolution leaves connections out
@pytest.mark.parametrize(("variant", "number"), [("caffe", 431_080), ("lecun", 61_706)])
def test_lenet5_has_the_parameters_of_the_papers(variant: str, number: int) -> None:
    assert sum(p.numel() for p in LeNet5(variant).parameters()) == number


@pytest.mark.parametrize("variant", ["caffe", "lecun"])
def test_lenet5_rectifies_convolutions_only_in_the_variant_of_lecun(variant: str) -> None:
    network = LeNet5(variant)
    x = torch.randn(3, 1, 28, 28)
    first, second = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    between = relu if variant == "lecun" else nn.Identity()
    expected = max_pool2d(between(first(x)), 2)
    expected = max_pool2d(between(second(expected)), 2).flatten(1)
    *hidden, output = linears(network)
    for layer in hidden:
        expected = relu(linear(expected, layer.weight, layer.bias))
    torch.testing.assert_close(network(x), output(expected))


def test_lenet5_starts_with_gaussian_glorot_weights() -> None:
    network = LeNet5()
    assert network.init == "glorot_normal"
    assert_drawn_as(network, "glorot_normal")


def test_lenet5_tells_an_unknown_variant() -> None:
    with pytest.raises(ValueError, match="are known") as raised:
        LeNet5("cafe")
    message = "variant='cafe': caffe, lecun are known. Did you mean 'caffe'?"
    assert str(raised.value) == message
