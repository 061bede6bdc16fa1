from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from ltpl.models import ResNet
from ltpl.models.resnet import PaddedShortcut

EXACT = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
# He et al. (2016), Deep residual learning, table 6, and akamaster/pytorch_resnet_cifar10, in
# millions
PUBLISHED = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85", 110: "1.7"}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("depth", EXACT)
def test_it_has_the_parameters_of_the_paper(depth: int) -> None:
    with torch.device("meta"):
        network = ResNet(depth)
    assert parameters(network) == EXACT[depth]
    digits = len(PUBLISHED[depth].split(".")[1])
    assert f"{parameters(network) / 1e6:.{digits}f}" == PUBLISHED[depth]
    layers = [p for p in network.parameters() if p.dim() >= 2]
    assert len(layers) == depth


def test_option_b_has_two_convolutions_more() -> None:
    with torch.device("meta"):
        plain, projected = ResNet(20), ResNet(20, shortcut="B")
    more = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert parameters(projected) == 272_474 == parameters(plain) + more


def test_normalisation_has_688_channels() -> None:
    with torch.device("meta"):
        network = ResNet(20)
    assert sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)) == 688


def test_option_a_takes_every_second_pixel_between_channels_of_zeros() -> None:
    x = torch.arange(1.0, 33).reshape(1, 2, 4, 4)
    found = PaddedShortcut(2, 4, 2)(x)
    zeros = [[0, 0], [0, 0]]
    assert found.tolist() == [[zeros, [[1, 3], [9, 11]], [[17, 19], [25, 27]], zeros]]


def test_option_a_puts_an_odd_channel_behind() -> None:
    x = torch.ones(1, 2, 3, 3)
    found = PaddedShortcut(2, 5, 2)(x)
    assert found.shape == (1, 5, 2, 2)
    assert found[0, :, 0, 0].tolist() == [0, 1, 1, 0, 0]


def test_only_the_first_blocks_of_the_second_and_third_stage_change_the_shape() -> None:
    for shortcut in ("A", "B"):
        network = ResNet(20, shortcut=shortcut)
        blocks = [*network.layer1, *network.layer2, *network.layer3]
        changed = [not isinstance(block.shortcut, nn.Identity) for block in blocks]
        assert changed == [False, False, False, True, False, False, True, False, False]


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_blocks_add_what_goes_around_them_before_the_last_relu(shortcut: str) -> None:
    network = ResNet(14, shortcut=shortcut, gamma="uniform")
    network(torch.randn(8, 3, 16, 16))
    network.eval()
    x = torch.randn(2, 3, 16, 16)
    expected = relu(network.bn1(network.conv1(x)))
    for stage, channels in (("layer1", 16), ("layer2", 32), ("layer3", 64)):
        for block in network.get_submodule(stage):
            inner = block.bn2(block.conv2(relu(block.bn1(block.conv1(expected)))))
            around = expected
            if expected.shape[1] != channels and shortcut == "A":
                around = torch.zeros_like(inner)
                quarter = channels // 4
                around[:, quarter:-quarter] = expected[:, :, ::2, ::2]
            elif expected.shape[1] != channels:
                convolution, norm = block.shortcut
                assert convolution.kernel_size == (1, 1)
                around = norm(convolution(expected))
            expected = relu(inner + around)
        assert expected.shape[1] == channels
    assert expected.shape[2:] == (4, 4)
    torch.testing.assert_close(network(x), network.output(expected.mean((2, 3))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 21}, "depth=21: 6n + 2 is wanted, such as 20, 32, 44, 56 or 110."),
        ({"depth": 18}, "depth=18: 6n + 2 is wanted, such as 20, 32, 44, 56 or 110."),
        ({"shortcut": "C"}, "shortcut='C': A, B are known."),
        ({"shortcut": "b"}, "shortcut='b': A, B are known. Did you mean 'B'?"),
    ],
)
def test_wrong_options_are_told(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=r"wanted|are known") as raised:
        ResNet(**options)
    assert str(raised.value) == message
