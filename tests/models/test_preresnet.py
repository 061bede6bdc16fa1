from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from ltpl.models import PreResNet


def meta(depth: int, block: str = "bottleneck") -> PreResNet:
    with torch.device("meta"):
        return PreResNet(depth, block)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def normalised_channels(network: nn.Module) -> int:
    return sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def selected_channels(network: PreResNet) -> int:
    """Count what network slimming's `channel_selection` layers store as parameters."""
    blocks = [*network.layer1, *network.layer2, *network.layer3]
    return network.bn.num_features + sum(block.bn1.num_features for block in blocks)


def test_depth_164_has_the_parameters_of_the_papers() -> None:
    network = meta(164)
    assert parameters(network) == 1_703_258
    # 1.7 in He et al. (2016), Identity mappings; 1.70 in Liu et al. (2017), network slimming,
    # table 1; its PyTorch code (Eric-mingjie/network-slimming) prints 1.71 with its indices
    assert f"{parameters(network) / 1e6:.2f}" == "1.70"
    assert f"{(parameters(network) + selected_channels(network)) / 1e6:.2f}" == "1.71"


def test_depth_20_is_that_of_network_slimming() -> None:
    # `resnet(depth=20)` of Eric-mingjie/network-slimming has 220,394 parameters, of which 912 are
    # indices of channels
    network = meta(20)
    assert normalised_channels(network) == 1360
    assert parameters(network) == 219_482
    assert parameters(network) + selected_channels(network) == 220_394
    assert network.output.in_features == 256


def test_other_depths() -> None:
    assert parameters(meta(101)) == 1_054_106
    assert parameters(meta(20, "basic")) == 272_282
    assert parameters(meta(110, "basic")) == 1_730_522  # of ResNet-110: 1,727,962


@pytest.mark.parametrize(("block", "depth"), [("bottleneck", 29), ("basic", 20)])
def test_its_layers_are_as_many_as_its_depth(block: str, depth: int) -> None:
    network = meta(depth, block)
    layers = [n for n, p in network.named_parameters() if p.dim() >= 2 and "shortcut" not in n]
    assert len(layers) == depth


@pytest.mark.parametrize(("block", "depth"), [("bottleneck", 20), ("basic", 14)])
def test_blocks_normalise_first_and_project_the_raw_input(block: str, depth: int) -> None:
    network = PreResNet(depth, block, gamma="uniform")
    network(torch.randn(8, 3, 16, 16))
    network.eval()
    x = torch.randn(2, 3, 16, 16)
    expected = network.conv1(x)
    kernels = [1, 3, 1] if block == "bottleneck" else [3, 3]
    projections = []
    for stage in (network.layer1, network.layer2, network.layer3):
        for each in stage:
            inner = expected
            for i, kernel in enumerate(kernels, 1):
                convolution = getattr(each, f"conv{i}")
                assert convolution.kernel_size == (kernel, kernel)
                assert convolution.bias is None
                inner = convolution(relu(getattr(each, f"bn{i}")(inner)))
            projected = isinstance(each.shortcut, nn.Conv2d)
            projections.append(projected)
            if projected:
                assert each.shortcut.kernel_size == (1, 1)
                assert each.shortcut.bias is None
                expected = each.shortcut(expected)
            expected = expected + inner
    assert projections == [block == "bottleneck", False, True, False, True, False]
    assert expected.shape[2:] == (4, 4)
    expected = network.output(relu(network.bn(expected)).mean((2, 3)))
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 32}, "depth=32: 9n + 2 is wanted, such as 20, 29, 101 or 164."),
        (
            {"depth": 101, "block": "basic"},
            "depth=101: 6n + 2 is wanted, such as 20, 32, 56 or 110.",
        ),
        (
            {"block": "bottelneck"},
            "block='bottelneck': bottleneck, basic are known. Did you mean 'bottleneck'?",
        ),
    ],
)
def test_wrong_options_are_told(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=r"wanted|are known") as raised:
        PreResNet(**options)
    assert str(raised.value) == message
