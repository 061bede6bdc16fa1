from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, relu

from ltpl.models import DenseNet


def meta(depth: int, growth: int) -> DenseNet:
    with torch.device("meta"):
        return DenseNet(depth, growth)


@pytest.mark.parametrize(
    ("depth", "growth", "exact", "published"),
    [
        # in millions: Liu et al. (2017), network slimming, table 1
        (40, 12, 1_019_722, "1.02"),
        # Huang et al. (2017), table 2
        (40, 12, 1_019_722, "1.0"),
        (100, 12, 6_979_642, "7.0"),
        (100, 24, 27_249_082, "27.2"),
    ],
)
def test_it_has_the_parameters_of_the_paper(
    depth: int, growth: int, exact: int, published: str
) -> None:
    total = sum(p.numel() for p in meta(depth, growth).parameters())
    assert total == exact
    digits = len(published.split(".")[1])
    assert f"{total / 1e6:.{digits}f}" == published


def test_its_layers_are_as_many_as_its_depth() -> None:
    network = meta(40, 12)
    layers = [p for p in network.parameters() if p.dim() >= 2]
    assert len(layers) == 40
    assert not [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert network.output.in_features == 16 + 36 * 12


def test_each_layer_sees_all_before_it_and_comes_behind_them() -> None:
    network = DenseNet(depth=10, growth=3, gamma="uniform")
    network(torch.randn(8, 3, 8, 8))
    network.eval()
    x = torch.randn(2, 3, 8, 8)
    expected = network.conv(x)
    for number in (1, 2, 3):
        for layer in network.get_submodule(f"dense{number}"):
            added = layer.conv(relu(layer.bn(expected)))
            assert added.shape[1] == 3
            expected = torch.cat([expected, added], 1)
        if number < 3:
            norm, _, convolution, _ = network.get_submodule(f"transition{number}")
            expected = avg_pool2d(convolution(relu(norm(expected))), 2)
    assert expected.shape == (2, 16 + 6 * 3, 2, 2)
    expected = network.output(relu(network.bn(expected)).mean((2, 3)))
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 41}, "depth=41: 3n + 4 is wanted, such as 40 or 100."),
        ({"growth": 0}, "growth=0: a whole number is wanted, at least 1."),
    ],
)
def test_wrong_options_are_told(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match="wanted") as raised:
        DenseNet(**options)
    assert str(raised.value) == message
