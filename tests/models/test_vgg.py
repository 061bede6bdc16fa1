from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d, relu

from ltpl.models import VGG

EXACT = {11: 9_228_362, 13: 9_413_066, 16: 14_724_042, 19: 20_035_018}
# in millions: VGG-19 in Liu et al. (2017), network slimming, table 1; VGG-16 by the layers of its
# authors' code (Eric-mingjie/network-slimming)
PUBLISHED = {16: 14.72, 19: 20.04}


@pytest.mark.parametrize("depth", EXACT)
def test_it_has_the_parameters_of_the_paper(depth: int) -> None:
    with torch.device("meta"):
        network = VGG(depth)
    total = sum(p.numel() for p in network.parameters())
    assert total == EXACT[depth]
    assert depth not in PUBLISHED or round(total / 1e6, 2) == PUBLISHED[depth]


@pytest.mark.parametrize("depth", EXACT)
def test_its_depth_counts_the_three_linear_layers_of_the_original(depth: int) -> None:
    with torch.device("meta"):
        network = VGG(depth)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 3 == depth
    assert all(convolution.bias is None for convolution in convolutions)
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == 4
    assert network.output.in_features == 512


def test_it_convolves_normalises_rectifies_pools_and_takes_the_mean() -> None:
    network = VGG(11, width=0.05, gamma="uniform")
    network(torch.randn(8, 3, 32, 32))
    network.eval()
    x = torch.randn(2, 3, 32, 32)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    normalisations = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    expected = x
    for i, (convolution, norm) in enumerate(zip(convolutions, normalisations, strict=True), 1):
        expected = relu(norm(convolution(expected)))
        expected = max_pool2d(expected, 2) if i in (1, 2, 4, 6) else expected
    assert expected.shape[2:] == (2, 2)
    torch.testing.assert_close(network(x), network.output(expected.mean((2, 3))))


@pytest.mark.parametrize("side", [16, 28, 48])
def test_images_of_other_sizes_are_taken(side: int) -> None:
    network = VGG(13, width=0.05).eval()
    assert network(torch.randn(2, 3, side, side)).shape == (2, 10)


def test_a_wrong_depth_is_told() -> None:
    with pytest.raises(ValueError, match="depth") as raised:
        VGG(12)
    assert str(raised.value) == "depth=12: 11, 13, 16, 19 are known."
