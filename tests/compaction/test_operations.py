"""Each operation on its own, in a network around it that is pruned on both sides."""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checking import compacted, randomised, size
from checking import what_is_known_is_true as known
from torch import Tensor, nn

from ltpl.compaction import CompactionError, compact
from ltpl.masks import Mask

WIDTH = 8


class Around(nn.Module):
    """Convolution and BatchNorm, the operation, and a convolution that reads it."""

    def __init__(self, middle: Callable[[Tensor], Tensor], padding: int = 0):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH)
        self.middle = middle
        with torch.no_grad():
            width = self.before(torch.rand(1, 3, 8, 8)).shape[1]
        self.after = nn.Conv2d(width, 5, 3, padding=padding)
        self.last = nn.BatchNorm2d(5)

    def before(self, x: Tensor) -> Tensor:
        return self.middle(self.norm(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.after(self.before(x))).relu()


def half(net: nn.Module, beta: bool = True, layer: str = "norm", size: int = WIDTH) -> Mask:
    keep = torch.arange(size) % 2 == 0
    return Mask({f"{layer}.weight": keep} | ({f"{layer}.bias": keep} if beta else {}))


IMAGE = (torch.randn(2, 3, 8, 8),)
OTHER = (torch.randn(3, 3, 8, 8),)

AT_ZERO = [
    F.relu, F.relu6, F.silu, F.gelu, F.hardswish, F.hardtanh, F.elu, F.selu, F.celu, F.leaky_relu,
    F.mish, F.softsign, F.tanh, F.tanhshrink, F.hardshrink, F.softshrink, F.logsigmoid, F.sigmoid,
    F.softplus, F.hardsigmoid, torch.cos, torch.exp, torch.abs, torch.square, torch.sin, torch.neg,
    lambda x: F.gelu(x, approximate="tanh"), lambda x: F.threshold(x, 0.1, 0.7), lambda x: x.clamp(0.2, 2),
    lambda x: 1 - x, lambda x: 2 / (x.abs() + 1), lambda x: 2**x, lambda x: (x.abs() + 1).log(),
    lambda x: torch.add(x, x, alpha=3), lambda x: torch.sub(x, 0.5 * x, alpha=-2.0), lambda x: x + 0.5,
    lambda x: torch.rsub(x, 1, alpha=2), lambda x: torch.addcmul(x, x + 1, x + 2, value=3.0),
    lambda x: x * (x + 1).sigmoid(),
    lambda x: torch.maximum(x, x * 2),
    lambda x: F.dropout(x, training=False), lambda x: x.contiguous(), lambda x: torch.div(x, 3, rounding_mode=None),
]  # fmt: skip
SHAPED = {
    "max pool": (lambda x: F.max_pool2d(x, 2), 4), "avg pool": (lambda x: F.avg_pool2d(x, 2), 4),
    "padded avg pool": (lambda x: F.avg_pool2d(x, 3, 2, 1), 4),
    "divided avg pool": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), 4),
    "lp pool": (lambda x: F.lp_pool2d(x, 2, 2), 4), "adaptive pool": (lambda x: F.adaptive_max_pool2d(x, 4), 4),
    "up": (lambda x: F.interpolate(x, scale_factor=2), 4), "bilinear": (lambda x: F.interpolate(x, size=(9, 9), mode="bilinear"), 4),
    "narrow": (lambda x: x.narrow(1, 2, 4), 0), "slice": (lambda x: x[:, 1:-2], 6), "negative": (lambda x: x[:, -5:], 5),
    "step": (lambda x: x[:, ::2], 0), "index": (lambda x: x[:, torch.tensor([0, 2, 1])], 0), "select": (lambda x: x[:, 2:3] + x, 8),
    "chunk": (lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid(), 4), "split": (lambda x: torch.cat(x.split(4, 1)[::-1], 1), 4),
    "uneven split": (lambda x: torch.cat(x.split([3, 5], 1)[::-1], 1), 4), "unbind": (lambda x: torch.cat(x.unbind(2), 1)[:, :, None], 0),
    "cat": (lambda x: torch.cat([x, x.relu()], 1), 4), "cat of rows": (lambda x: torch.cat([x, x], 2), 4),
    "cat of zeros": (lambda x: torch.cat([x, torch.zeros_like(x)], 1), 4), "glu": (lambda x: F.glu(x, 1), 4),
    "pad": (lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)), 4), "reflect": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 4),
    "pad of ones": (lambda x: F.pad(x, (1, 1, 1, 1), value=1.0), 0), "crop": (lambda x: F.pad(x, (-1, -1, 0, 0)), 4),
    "squeeze and excite": (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), 4), "sum over channels": (lambda x: x.sum(1, keepdim=True), 4),
    "times its sum": (lambda x: x * x.sum(1, keepdim=True), 4), "mean over channels": (lambda x: x * x.mean(1, keepdim=True), 0),
    "max over channels": (lambda x: x + x.amax(1, keepdim=True), 0), "product over channels": (lambda x: x + x.prod(1, keepdim=True), 0),
    "variance": (lambda x: x + x.var(1, keepdim=True), 0), "max": (lambda x: x * x.max(2, keepdim=True)[0], 0), "norm": (lambda x: F.normalize(x, dim=1), 4),
    "permute": (lambda x: x.permute(0, 2, 3, 1).flip(1).permute(0, 3, 1, 2) if False else x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2), 4),
    "transpose": (lambda x: x.transpose(1, -1).transpose(-1, 1), 4), "view": (lambda x: x.view(x.size(0), 8, 64).view(x.size(0), -1, 8, 8), 4),
    "flatten and back": (lambda x: x.flatten(1).unflatten(1, (8, 8, 8)), 4), "channels in groups": (lambda x: x.view(-1, 2, 4, 8, 8).sum(1), 4),
    "shuffle": (lambda x: x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8), 4), "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), 0),
    "channel shuffle": (lambda x: F.channel_shuffle(x, 2), 4), "expand": (lambda x: x * x[:, :, :1, :1].expand(-1, 8, -1, -1), 4),
    "expand as": (lambda x: x * x.mean(1, keepdim=True).expand_as(x), 0), "repeat": (lambda x: x.repeat(1, 1, 2, 1), 4),
    "repeat channels": (lambda x: x.repeat(1, 2, 1, 1), 0), "unsqueeze": (lambda x: x.unsqueeze(2).squeeze(2), 4), "spatial softmax": (lambda x: x.flatten(2).softmax(2).view(x.shape), 0),
    "in place": (lambda x: F.relu_(x.clone()), 4), "added in place": (lambda x: x.clone().add_(x), 4), "matmul": (lambda x: x @ x.transpose(2, 3), 0),
    "channels squared": (lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)).unsqueeze(3).expand(-1, -1, -1, 4), 0),
    "chosen": (lambda x: torch.where(x > 0, x, 0.0), 4), "filled": (lambda x: x.masked_fill(x > 0, 0.3), 0),
    "other choice": (lambda x: torch.where(x > 0, 1.0, x), 0), "third choice": (lambda x: torch.where(x > -9, x, x + 1), 0),
    "rows shifted": (lambda x: torch.where(torch.arange(8.0) > 3, x, -x), 4), "step in rows": (lambda x: x[:, :, ::2], 4),
}  # fmt: skip


@pytest.mark.parametrize("padding", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("beta", [True, False])
@pytest.mark.parametrize("activation", AT_ZERO, ids=lambda f: f.__name__)
def test_constants_go_into_the_bias_but_not_through_a_border(
    activation: Callable[[Tensor], Tensor], beta: bool, padding: int
) -> None:
    net = randomised(Around(activation, padding))
    mask = half(net, beta)
    small = compacted(net, mask, IMAGE, [OTHER])
    at_zero = activation(torch.zeros(1)).item() if beta else None
    alive = not beta and float(activation(net.norm.bias.detach()[1::2]).abs().max()) > 0
    if padding and (alive or (at_zero is not None and at_zero != 0)):
        assert small.after.in_channels > 4
    else:
        assert small.conv.out_channels == small.after.in_channels == 4
    known(net, mask, IMAGE)


@pytest.mark.parametrize("name", SHAPED)
def test_operations_that_move_or_mix(name: str) -> None:
    middle, _ = SHAPED[name]
    for beta in (True, False):
        net = randomised(Around(middle, 1))
        mask = half(net, beta)
        small = compacted(net, mask, IMAGE)
        known(net, mask, IMAGE)
        if beta and SHAPED[name][1]:
            assert small.conv.out_channels <= SHAPED[name][1]


class Linears(nn.Module):
    """Two linear layers with something between."""

    def __init__(self, middle: nn.Module | Callable[[Tensor], Tensor], width: int = 8):
        super().__init__()
        self.first, self.norm = nn.Linear(4, width), nn.BatchNorm1d(width)
        self.middle, self.second = middle, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.middle(self.norm(self.first(x))))


ROWS = (torch.randn(5, 4),)


@pytest.mark.parametrize("layer", [nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.Softmax(1)])
def test_layers_that_need_all_channels_keep_them(layer: nn.Module) -> None:
    net = randomised(Linears(layer))
    assert size(compacted(net, half(net), ROWS)) == size(net)


@pytest.mark.parametrize("slopes", [1, 8])
def test_prelu(slopes: int) -> None:
    net = randomised(Linears(nn.PReLU(slopes)))
    small = compacted(net, half(net), ROWS)
    assert small.middle.num_parameters == (4 if slopes == 8 else 1)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_other_normalisation(kind: type[nn.Module], affine: bool, tracked: bool) -> None:
    net = randomised(Around(kind(WIDTH, affine=affine, track_running_stats=tracked)))
    for beta in (True, False):
        small = compacted(net, half(net, beta), IMAGE)
        assert small.after.in_channels in (4, 8)


@pytest.mark.parametrize("groups", [1, 4, 8, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("transposed", [True, False])
def test_grouped_convolutions(groups: int, stride: int, transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    for beta in (True, False):
        for bias in (stride == 1,):
            net = randomised(Around(kind(8, 16, 3, stride, 1, groups=groups, bias=bias), 1))
            keep = torch.arange(8) < 4
            mask = Mask({"norm.weight": keep} | ({"norm.bias": keep} if beta else {}))
            compacted(net, mask, IMAGE)
            what = {"middle.weight": torch.ones_like(net.middle.weight, dtype=torch.bool)}
            what["middle.weight"][:4] = False
            small = compacted(net, Mask(what), IMAGE)
            known(net, Mask(what), IMAGE)
            assert all(p.numel() for p in small.parameters())


def test_transposed_convolution_of_one_pixel_leaves_gaps() -> None:
    net = randomised(Around(nn.ConvTranspose2d(8, 6, 1, stride=2)))
    compacted(net, half(net, beta=False), IMAGE)
    assert known(net, half(net, beta=False), IMAGE) > 0


def test_a_layer_used_twice_takes_no_constant_over() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
            self.shared, self.other = nn.Linear(8, 8), nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.shared(self.norm(self.first(x)).sigmoid())
            return self.shared(self.other(x)) + self.shared.bias

    net = randomised(Twice())
    for beta in (True, False):
        compacted(net, half(net, beta), ROWS)
        compacted(net, half(net, beta, "other"), ROWS)


def test_a_bias_of_another_layer_takes_no_constant_over() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
            self.one, self.two = nn.Linear(8, 3), nn.Linear(8, 3)
            self.raw = nn.Parameter(torch.randn(8, 3))

        def forward(self, x: Tensor) -> dict[str, Any]:
            x = self.norm(self.first(x)).sigmoid()
            y = F.linear(x, self.one.weight, self.two.bias)
            return {
                "a": (y, self.two(x)),
                "b": x @ self.raw,
                "c": torch.addmm(self.two.bias, x, self.raw),
            }

    net = randomised(Crossed())
    for beta in (True, False):
        compacted(net, half(net, beta), ROWS)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_in_every_gradient_mode(mode: Callable[[], Any]) -> None:
    net = randomised(Around(F.relu)).train()
    net.norm.eval()
    net.conv.weight.requires_grad_(False)
    with mode():
        small = compact(net, half(net), IMAGE)
    assert small.training
    assert not small.norm.training
    assert [p.requires_grad for p in small.parameters()] == [
        p.requires_grad for p in net.parameters()
    ]
    small(*IMAGE).sum().backward()


def test_zero_gammas_outside_the_mask_are_alive() -> None:
    net = randomised(Around(F.relu))
    nn.init.zeros_(net.last.weight)
    nn.init.zeros_(net.norm.weight)
    small = compacted(net, half(net, layer="last", size=5), IMAGE)
    assert small.norm.num_features == 8


def test_a_whole_layer_that_is_dead_keeps_a_channel() -> None:
    net = randomised(Around(F.relu))
    none = torch.zeros(8, dtype=torch.bool)
    small = compacted(net, Mask({"norm.weight": none, "norm.bias": none}), IMAGE)
    assert small.norm.num_features == 1


def test_a_view_that_is_changed_in_place_is_refused() -> None:
    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, 1].add_(1)
        return x

    net = randomised(Around(change))
    with pytest.raises(CompactionError, match=r"in place|does not know"):
        compacted(net, half(net), IMAGE)


def test_control_flow_on_data_is_refused() -> None:
    net = randomised(Around(F.relu))
    net.middle = lambda x: x if x.sum() > 0 else -x
    with pytest.raises(CompactionError, match=r"torch\.export cannot follow Around"):
        compacted(net, half(net), IMAGE)


@pytest.mark.parametrize("operation", ["fft_rfft", "cumsum", "im2col"])
def test_other_operations_are_refused_by_name(operation: str) -> None:
    made = {
        "fft_rfft": lambda x: torch.fft.rfft(x).abs(),
        "cumsum": lambda x: x.cumsum(1),
        "im2col": lambda x: F.unfold(x, 2)[..., None],
    }
    net = randomised(Around(F.relu))
    net.middle = made[operation]
    net.after, net.last = nn.Identity(), nn.Identity()
    with pytest.raises(CompactionError, match=f"does not know the operation {operation}"):
        compacted(net, half(net), IMAGE)


def test_a_number_of_channels_that_is_divided_by_is_noticed() -> None:
    net = randomised(Around(lambda x: x * (x.sum(1, keepdim=True) / x.shape[1])))
    with pytest.raises(CompactionError, match="differs"):
        compact(net, half(net), IMAGE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    net = randomised(Around(F.relu)).to(dtype)
    small = compact(net, half(net), (IMAGE[0].to(dtype),))
    assert small.after.weight.dtype == dtype
    assert small.after.in_channels == 4


def test_embeddings_lose_features() -> None:
    net = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    keep = torch.ones(10, 8, dtype=torch.bool)
    keep[:, :3] = False
    small = compacted(net, Mask({"0.weight": keep}), (torch.randint(10, (3, 5)),))
    assert small[0].embedding_dim == small[1].in_features == 5


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_of_one_is_an_example(batch: int) -> None:
    net = randomised(Around(F.relu))
    assert compacted(net, half(net), (torch.randn(batch, 3, 8, 8),), [OTHER]).conv.out_channels == 4


@pytest.mark.parametrize("beta", [True, False])
@pytest.mark.parametrize("activation", [F.relu, F.sigmoid, F.softplus])
def test_a_border_of_zeros_holds_constants_back(
    activation: Callable[[Tensor], Tensor], beta: bool
) -> None:
    test_constants_go_into_the_bias_but_not_through_a_border(activation, beta, 1)


def test_layers_that_only_training_uses_stay_whole() -> None:
    class Helped(Linears):
        def __init__(self) -> None:
            super().__init__(nn.ReLU())
            self.aid = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Any:
            return (super().forward(x), self.aid(x)) if self.training else super().forward(x)

    net = randomised(Helped())
    small = compacted(net, half(net), ROWS)
    assert small.aid.weight.shape == (5, 4)
    assert small.first.out_features == 4
