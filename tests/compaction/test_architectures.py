"""Masked against compact over the architectures that people prune: exact, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import ARCHITECTURES, SLOW, image
from checking import channels, compacted, masked, neurons, norms, randomised, size, units
from torch import Tensor, nn

from ltpl.compaction import CompactionError, compact
from ltpl.compaction.compact import planned
from ltpl.masks import Mask, prune
from ltpl.models import LeNet5, PreResNet, ResNet

Make = Callable[[], tuple[nn.Module, tuple[Any, ...]]]
MASKS = {
    "alone": lambda net, example, share: channels(net, share),
    "beta stays": lambda net, example, share: channels(net, share, beta=False),
    "units": units,
    "neurons": lambda net, example, share: neurons(net, share),
    "weights": lambda net, example, share: prune(net, 0.9 + share / 10),
}
# drawn so that little can go; the units of norms do not reach the last use of a tied matrix
WHOLE = ("transformer", "our GAT", "tied modules")
ORDINARY = ("torch.nn.", "ltpl.", "torchvision.", "torch_geometric.", "torch.fx.", "architectures")


def one(name: str, kind: str, share: float) -> None:
    net, example = ARCHITECTURES[name]()
    randomised(net)
    if not norms(net):
        kind = {"alone": "neurons", "units": "neurons"}.get(kind, kind)
    mask = MASKS[kind](net, example, share)
    others = [image(3, example[0].shape[1], example[0].shape[-1])] if example[0].dim() == 4 else []
    small = compacted(net, mask, example, others)
    if kind in ("units", "neurons") and name not in WHOLE:
        assert size(small) < size(net)
    assert all(type(m).__module__.startswith(ORDINARY) for m in small.modules())


@pytest.mark.parametrize("kind", ["alone", "units"])
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in SLOW])
def test_masked_and_compact_agree(name: str, kind: str) -> None:
    one(name, kind, 0.5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:min_keep=1 holds weights back")
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_masked_and_compact_agree_at_every_ratio(name: str, kind: str, share: float) -> None:
    one(name, kind, share)


@pytest.mark.filterwarnings("ignore:min_keep=1 holds weights back")
@pytest.mark.parametrize("kind", ["neurons", "weights"])
@pytest.mark.parametrize("name", ["LeNet-300", "LeNet-5", "ResNet-20 A", "GCN", "MLP"])
def test_masks_of_weights(name: str, kind: str) -> None:
    one(name, kind, 0.7)


def test_recurrent_layers_are_refused_by_name() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.lstm = nn.BatchNorm1d(5), nn.LSTM(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(self.norm(x))[0]

    net, x = Reads(), (torch.randn(2, 5, 4),)
    with pytest.raises(CompactionError, match="operation lstm"):
        compacted(net, channels(net, 0.5), x)


def test_resnet_20_option_a_by_hand() -> None:
    net = randomised(ResNet(20, shortcut="A"))
    inner = {}
    for stage, width in enumerate((16, 32, 64), 1):
        for block in range(3):
            keep = torch.arange(width) < width // 2
            path = f"layer{stage}.{block}.bn1"
            inner |= {f"{path}.weight": keep, f"{path}.bias": keep}
    small = compacted(net, Mask(inner), image(2))
    gone = 0
    for width, inputs in ((16, [16] * 3), (32, [16, 32, 32]), (64, [32, 64, 64])):
        gone += sum(width // 2 * (n * 9 + 2 + width * 9) for n in inputs)
    assert size(net) - size(small) == gone


def test_a_mlp_by_hand() -> None:
    net, example = ARCHITECTURES["MLP"]()
    keep = torch.arange(16) < 10
    small = compacted(randomised(net), Mask({"1.weight": keep, "1.bias": keep}), example)
    assert size(net) - size(small) == 6 * (8 + 1 + 2 + 16)


def test_lenet_5_by_hand() -> None:
    net = LeNet5()
    keep = torch.ones(50, 20, 5, 5, dtype=torch.bool)
    keep[:20] = False
    mask = Mask({"features.3.weight": keep, "features.3.bias": torch.arange(50) >= 20})
    small = compacted(net, mask, (torch.randn(2, 1, 28, 28),))
    assert size(net) - size(small) == 20 * (20 * 25 + 1) + 20 * 16 * 500


@pytest.mark.parametrize("make", [lambda: ResNet(8), lambda: PreResNet(11)])
def test_training_goes_on_alike(make: Callable[[], nn.Module]) -> None:
    net = randomised(make()).double()
    example = tuple(x.double() for x in image(4))
    mask = channels(net, 0.5)
    large = masked(net, mask).train()
    found = planned(net, mask, example)
    small = found.apply(copy.deepcopy(net)).train()
    for model in (large, small):
        F.cross_entropy(model(*example), torch.arange(4)).backward()
    for name, p in small.named_parameters():
        kept = found.narrow(name, large.get_parameter(name).grad)
        torch.testing.assert_close(p.grad, kept, rtol=1e-6, atol=1e-9)


def test_a_second_compaction_goes_on_from_the_first() -> None:
    net = randomised(ResNet(20))
    first = compacted(net, units(net, image(2), 0.3), image(2))
    second = compacted(first, units(first, image(2), 0.3), image(2))
    assert size(second) < size(first) < size(net)


def test_hooks_stay() -> None:
    net = randomised(ResNet(8))
    calls: list[int] = []
    handle = net.register_forward_hook(lambda *_: calls.append(1))
    before = copy.copy(net._forward_hooks)
    compact(net, channels(net, 0.5), image(2))
    assert net._forward_hooks == before
    handle.remove()
