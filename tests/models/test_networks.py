"""What every image network promises."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from ltpl import models
from ltpl.masks import prune
from ltpl.models import (
    MLP,
    VGG,
    ConvNet,
    DenseNet,
    ImageNetResNet,
    LeNet5,
    LeNet300,
    PreResNet,
    ResNet,
)
from ltpl.models.initialise import INITIALISERS

IMAGES = {  # network, side of the image
    "lenet5-caffe": (LeNet5, {"variant": "caffe"}, 28),
    "lenet5-lecun": (LeNet5, {"variant": "lecun"}, 28),
    "conv4": (ConvNet, {"depth": 4, "size": 8}, 8),
    "vgg11": (VGG, {"depth": 11, "width": 0.1}, 16),
    "resnet8-a": (ResNet, {"depth": 8}, 8),
    "resnet8-b": (ResNet, {"depth": 8, "shortcut": "B"}, 8),
    "resnet18-cifar": (ImageNetResNet, {"stem": "cifar"}, 8),
    "preresnet11": (PreResNet, {"depth": 11}, 8),
    "preresnet8-basic": (PreResNet, {"depth": 8, "block": "basic"}, 8),
    "densenet10": (DenseNet, {"depth": 10, "growth": 6}, 8),
}
NORMALISED = [name for name in IMAGES if not name.startswith(("lenet", "conv"))]
SPREAD: dict[str, Callable[[int, int], float]] = {
    "default": lambda fan_in, fan_out: 1 / math.sqrt(3 * fan_in),
    "glorot_normal": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "kaiming_normal": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
}


def build(name: str, **options: Any) -> nn.Module:
    kind, own, _ = IMAGES[name]
    return kind(**own, **options)  # type: ignore[operator]


def images(name: str, channels: int | None = None) -> Tensor:
    usual = 1 if name.startswith("lenet") else 3
    side = IMAGES[name][2]
    return torch.randn(4, channels or usual, side, side)


def matrices(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in network.named_parameters() if p.dim() >= 2}


def norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def values(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def spoil(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(math.nan)
        for buffer in network.buffers():
            buffer.fill_(7)


@pytest.mark.parametrize("name", IMAGES)
def test_it_takes_any_channels_and_gives_a_logit_for_each_class(name: str) -> None:
    network = build(name, inputs=2, outputs=7)
    logits = network(images(name, 2))
    assert logits.shape == (4, 7)
    assert bool(logits.isfinite().all())
    assert len({tuple(row.tolist()) for row in logits}) == 4


@pytest.mark.parametrize("name", IMAGES)
def test_the_stated_output_layer_is_the_last_matrix(name: str) -> None:
    network = build(name, outputs=7)
    stated = type(network).output_layer
    assert list(matrices(network))[-1] == f"{stated}.weight"
    assert network.get_submodule(stated).weight.shape[0] == 7


@pytest.mark.parametrize("name", IMAGES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = build(name)
    cross_entropy(network(images(name)), torch.arange(4)).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.any()), parameter_name


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("init", SPREAD)
def test_redrawing_gives_the_distribution_of_the_start(name: str, init: str) -> None:
    network = build(name, init=init)
    before = values(network)
    spoil(network)
    network.reset_parameters()
    for parameter_name, weight in matrices(network).items():
        fan_in, area = weight[0].numel(), weight[0, 0].numel()
        expected = SPREAD[init](fan_in, len(weight) * area)
        error = 6 / math.sqrt(2 * weight.numel())  # six deviations of a sample deviation
        for drawn in (before[parameter_name], weight.detach()):
            deviation = float(drawn.square().mean().sqrt())
            assert abs(deviation / expected - 1) < error, parameter_name
            assert abs(float(drawn.mean())) < 6 * expected / weight.numel() ** 0.5, parameter_name
        assert not torch.equal(weight, before[parameter_name])
    linear = network.get_submodule(type(network).output_layer)
    assert bool(linear.bias.any()) == (init == "default")


@pytest.mark.parametrize("name", NORMALISED)
def test_redrawing_starts_normalisation_afresh(name: str) -> None:
    network = build(name, gamma=0.5)
    before = values(network)
    network(images(name))
    assert int(norms(network)[0].num_batches_tracked) == 1
    spoil(network)
    network.reset_parameters()
    for norm in norms(network):
        assert torch.equal(norm.weight, torch.full_like(norm.weight, 0.5))
        assert not bool(norm.bias.any())
        assert not bool(norm.running_mean.any())
        assert bool((norm.running_var == 1).all())
        assert int(norm.num_batches_tracked) == 0
    buffers = dict(network.named_buffers())
    assert_same(buffers, {key: before[key] for key in buffers})


@pytest.mark.parametrize("name", NORMALISED)
def test_scales_start_at_one_or_between_zero_and_one(name: str) -> None:
    assert all(bool((norm.weight == 1).all()) for norm in norms(build(name)))
    scales = torch.cat([norm.weight for norm in norms(build(name, gamma="uniform"))]).detach()
    assert 0 <= float(scales.min()) < 0.2 < 0.8 < float(scales.max()) < 1
    assert abs(float(scales.mean()) - 0.5) < 6 / math.sqrt(12 * len(scales))


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("init", ["default", "kaiming_normal"])
def test_everything_is_drawn_once(name: str, init: str) -> None:
    torch.manual_seed(3)
    network = build(name, init=init)
    after = torch.get_rng_state()
    drawn = values(network)
    spoil(network)
    torch.manual_seed(3)
    network.reset_parameters()
    assert_same(values(network), drawn)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("name", NORMALISED)
def test_weights_do_not_depend_on_the_scales(name: str) -> None:
    drawn = []
    for gamma in (1, 0.5, "uniform"):
        torch.manual_seed(3)
        drawn.append(matrices(build(name, gamma=gamma)))
    assert_same(drawn[0], drawn[1])
    assert_same(drawn[0], drawn[2])


@pytest.mark.parametrize("name", IMAGES)
def test_kernels_and_matrices_are_pruned_and_nothing_else(name: str) -> None:
    network = build(name)
    mask = prune(network, 0.5)
    assert list(mask) == list(matrices(network))
    assert mask.total == sum(p.numel() for p in matrices(network).values())
    assert mask.kept == mask.total - round(mask.total * 0.5)
    before = values(network)
    mask.apply_(network)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key] * mask[key] if key in mask else before[key])


@pytest.mark.parametrize("name", IMAGES)
def test_a_copy_and_a_loaded_state_give_the_same_logits(name: str) -> None:
    network = build(name)
    network(images(name))  # statistics that are not those of the start
    twin, other = copy.deepcopy(network), build(name)
    other.load_state_dict(network.state_dict())
    x = images(name)
    expected = network.eval()(x)
    assert torch.equal(twin.eval()(x), expected)
    assert torch.equal(other.eval()(x), expected)
    twin.reset_parameters()
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("name", [*NORMALISED, "conv4"])
def test_the_layout_of_the_memory_changes_no_logit(name: str) -> None:
    network = build(name).eval()
    x = images(name)
    expected = network(x)
    network.to(memory_format=torch.channels_last)
    found = network(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # another order of sums


@pytest.mark.parametrize("name", ["lenet5-caffe", "resnet8-a", "densenet10", "resnet18-cifar"])
def test_it_compiles_in_one_piece(name: str) -> None:
    network = build(name).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    x = images(name)
    torch.testing.assert_close(compiled(x), network(x))


@pytest.mark.parametrize("name", IMAGES)
def test_it_is_built_on_the_device_asked_for(name: str) -> None:
    with torch.device("meta"):
        network = build(name)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    assert {tensor.device.type for tensor in build(name).state_dict().values()} == {"cpu"}


@pytest.mark.parametrize("name", IMAGES)
def test_any_initialiser_is_taken_and_an_unknown_one_is_told(name: str) -> None:
    for init in INITIALISERS:
        with torch.device("meta"):
            assert build(name, init=init).init == init
    with pytest.raises(ValueError, match="are known") as raised:
        build(name, init="kaiming_norml")
    known = "default, glorot_normal, kaiming_normal, orthogonal"
    hint = "Did you mean 'kaiming_normal'?"
    assert str(raised.value) == f"init='kaiming_norml': {known} are known. {hint}"


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("option", ["inputs", "outputs"])
@pytest.mark.parametrize("given", [0, -1, 2.0, True, "3"])
def test_channels_and_classes_are_whole_numbers(name: str, option: str, given: object) -> None:
    with pytest.raises(ValueError, match="whole") as raised:
        build(name, **{option: given})
    assert str(raised.value) == f"{option}={given!r}: a whole number is wanted, at least 1."


@pytest.mark.parametrize("name", NORMALISED)
@pytest.mark.parametrize("given", [0, -0.5, math.inf, math.nan, True, "unifrom", None])
def test_wrong_scales_are_told(name: str, given: object) -> None:
    with pytest.raises(ValueError, match="gamma") as raised:
        build(name, gamma=given)
    most = ", at most 1e30," if given == math.inf else ""
    message = f"gamma={given!r}: a number above 0 or 'uniform'{most} is wanted."
    assert str(raised.value) == message


@pytest.mark.parametrize("kind", [ConvNet, VGG, ResNet, PreResNet])
@pytest.mark.parametrize("given", [0, -1.0, math.inf, math.nan, "2", False])
def test_a_wrong_width_is_told(kind: Callable[..., nn.Module], given: object) -> None:
    with pytest.raises(ValueError, match="width") as raised:
        kind(width=given)
    most = ", at most 1e30," if given == math.inf else ""
    assert str(raised.value) == f"width={given!r}: a number above 0{most} is wanted."


@pytest.mark.parametrize("kind", [VGG, ResNet, PreResNet])
def test_the_width_scales_every_layer_and_leaves_one_channel(
    kind: Callable[..., nn.Module],
) -> None:
    with torch.device("meta"):
        plain, double, least = (matrices(kind(width=width)) for width in (1, 2, 1e-9))
    first, *_, last = plain
    for key, weight in plain.items():
        outputs, inputs = weight.shape[:2]
        wide = (outputs if key == last else 2 * outputs, inputs if key == first else 2 * inputs)
        assert double[key].shape[:2] == wide
        assert key == last or len(least[key]) in (1, 4)  # 4: a bottleneck's last


@pytest.mark.parametrize("kind", [partial(ConvNet, size=16), VGG, ResNet, PreResNet])
def test_a_narrow_network_runs(kind: Callable[..., nn.Module]) -> None:
    network = kind(width=0.03).eval()  # 16, 32 and 64 become 1, 1 and 2
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_all_of_them_are_tested() -> None:
    tested = {kind for kind, *_ in IMAGES.values()} | {MLP, LeNet300}
    networks = (getattr(models, name) for name in models.__all__)
    others = {"Network", "GCN", "GAT", "GIN", "GraphSAGE"}
    assert {kind for kind in networks if kind.__name__ not in others} == tested
