from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, max_pool2d, relu

from ltpl.models import ConvNet

# Frankle and Carbin (2019), figure 2, "All / Conv Weights", in thousands. Its 1.7 million weights
# of Conv-6 are not what the layers in the same figure give.
PUBLISHED = {2: (4300, 38), 4: (2400, 260), 6: (None, 1100)}
EXACT = {2: 4_301_642, 4: 2_425_930, 6: 2_262_602}


@pytest.mark.parametrize("depth", EXACT)
def test_it_has_the_parameters_of_the_paper(depth: int) -> None:
    with torch.device("meta"):
        network = ConvNet(depth)
    everything, kernels = PUBLISHED[depth]
    total = sum(p.numel() for p in network.parameters())
    convolutions = sum(p.numel() for p in network.parameters() if p.dim() == 4)
    assert total == EXACT[depth]
    assert everything is None or round(total, -5) == 1000 * everything
    assert abs(convolutions - 1000 * kernels) < 50_000 * (depth == 6) + 1000


@pytest.mark.parametrize("depth", EXACT)
def test_it_is_pairs_of_convolutions_a_pool_each_and_three_linear_layers(depth: int) -> None:
    network = ConvNet(depth, size=12, inputs=2).eval()
    x = torch.randn(3, 2, 12, 12)
    weights: list[Tensor] = list(network.parameters())
    assert not any(bool(bias.any()) for bias in weights[1::2])
    expected = x
    for pair in range(depth // 2):
        for convolution in (2 * pair, 2 * pair + 1):
            kernel, bias = weights[2 * convolution : 2 * convolution + 2]
            expected = relu(conv2d(expected, kernel, bias, padding=1))
        expected = max_pool2d(expected, 2)
    expected = expected.flatten(1)
    for layer in range(depth, depth + 3):
        expected = linear(expected, weights[2 * layer], weights[2 * layer + 1])
        expected = relu(expected) if layer < depth + 2 else expected
    torch.testing.assert_close(network(x), expected)


def test_the_width_scales_kernels_and_leaves_the_linear_layers() -> None:
    network = ConvNet(4, width=0.25)
    kernels = [weight.shape[:2] for weight in network.parameters() if weight.dim() == 4]
    assert kernels == [(16, 3), (16, 16), (32, 16), (32, 32)]
    assert network.hidden[0].weight.shape == (256, 32 * 8 * 8)
    assert network.hidden[3].weight.shape == (256, 256)


def test_its_weights_are_gaussian_glorot() -> None:
    network = ConvNet()
    assert network.init == "glorot_normal"
    weight = network.hidden[0].weight.detach()
    beyond = (weight.abs() > 2 * weight.std()).float().mean()
    assert abs(float(beyond) - 0.0455) < 0.001  # of a normal distribution, not of a uniform one


@pytest.mark.parametrize(("depth", "size", "features"), [(2, 28, 196), (4, 28, 49), (6, 28, 9)])
def test_other_sizes_are_pooled_rounding_down(depth: int, size: int, features: int) -> None:
    network = ConvNet(depth, size=size, inputs=1)
    assert network.hidden[0].in_features == 64 * 2 ** (depth // 2 - 1) * features
    assert network(torch.randn(2, 1, size, size)).shape == (2, 10)


def test_dropout_takes_the_inputs_of_the_last_two_linear_layers_in_training_only() -> None:
    network = ConvNet(2, dropout=0.5, size=4)
    seen: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
    x = torch.rand(64, 3, 4, 4)
    linears = [name for name, m in network.named_modules() if isinstance(m, nn.Linear)]

    def zeros() -> dict[str, float]:
        network(x)
        return {name: float((inputs == 0).float().mean()) for name, inputs in seen.items()}

    trained, before = zeros(), zeros()
    assert not torch.equal(network(x), network(x))
    network.eval()
    evaluated = zeros()
    assert torch.equal(network(x), network(x))
    assert trained[linears[0]] == before[linears[0]] == evaluated[linears[0]]
    for name in linears[1:]:  # of what is not zero after ReLU, half
        expected = 1 - (1 - evaluated[name]) / 2
        assert abs(trained[name] - expected) < (0.02 if name == linears[1] else 0.15)
        assert trained[name] > evaluated[name] + 0.1


def test_without_dropout_training_and_evaluation_agree_and_names_are_the_same() -> None:
    network = ConvNet(2, size=8)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(network.train()(x), network.eval()(x))
    assert network.state_dict().keys() == ConvNet(2, 0.5, size=8).state_dict().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "depth=3: 2, 4, 6 are known."),
        ({"dropout": 1.0}, "dropout=1.0: a number is wanted, 0 <= dropout < 1."),
        ({"dropout": -0.1}, "dropout=-0.1: a number is wanted, 0 <= dropout < 1."),
        ({"depth": 4, "size": 3}, "size=3: a whole number is wanted, at least 4."),
        ({"size": 32.0}, "size=32.0: a whole number is wanted, at least 2."),
    ],
)
def test_wrong_options_are_told(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=r"are known|wanted") as raised:
        ConvNet(**options)
    assert str(raised.value) == message
