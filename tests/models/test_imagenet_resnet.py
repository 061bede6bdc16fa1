from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from ltpl.models import ImageNetResNet

torchvision_models = pytest.importorskip("torchvision.models")
# the tables of torchvision's documentation: `num_params` of the weights for ImageNet
PUBLISHED = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}


@pytest.mark.parametrize("depth", PUBLISHED)
def test_it_has_the_parameters_of_torchvision(depth: int) -> None:
    with torch.device("meta"):
        network = ImageNetResNet(depth, outputs=1000)
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED[depth]


def test_the_small_stem_has_fewer_parameters() -> None:
    with torch.device("meta"):
        network = ImageNetResNet(18, stem="cifar")
    assert sum(p.numel() for p in network.parameters()) == 11_173_962


@pytest.mark.parametrize("depth", PUBLISHED)
def test_checkpoints_of_torchvision_load_and_give_the_same_logits(depth: int) -> None:
    theirs = getattr(torchvision_models, f"resnet{depth}")(weights=None, num_classes=7).eval()
    ours = ImageNetResNet(depth, outputs=7).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


def test_the_small_stem_keeps_the_size_of_the_image() -> None:
    sizes = {}
    for stem in ("imagenet", "cifar"):
        network = ImageNetResNet(18, stem=stem).eval()
        network.layer1.register_forward_pre_hook(
            lambda _, x, stem=stem: sizes.update({stem: tuple(x[0].shape[1:])})
        )
        network(torch.randn(1, 3, 32, 32))
    assert sizes == {"imagenet": (64, 8, 8), "cifar": (64, 32, 32)}
    assert network.conv1.kernel_size == (3, 3)
    assert network.conv1.bias is None
    assert isinstance(network.maxpool, nn.Identity)


def test_a_missing_torchvision_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ValueError, match="pip install torchvision") as raised:
        ImageNetResNet()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "depth=20: 18, 34, 50 are known."),
        ({"stem": "cifar10"}, "stem='cifar10': imagenet, cifar are known. Did you mean 'cifar'?"),
    ],
)
def test_wrong_options_are_told(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match="are known") as raised:
        ImageNetResNet(**options)
    assert str(raised.value) == message
