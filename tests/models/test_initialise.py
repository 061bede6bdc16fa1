from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ltpl.models.initialise import initialise_, initialiser, scale, undrawn


class Matrix(nn.Module):
    """A layer that is none of torch's, such as torch-geometric's `Linear`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(40, 60))
        self.bias = nn.Parameter(torch.ones(40))
        self.resets = 0

    def reset_parameters(self) -> None:
        self.resets += 1


def test_any_layer_with_a_matrix_is_drawn() -> None:
    layer = Matrix()
    initialise_(nn.Sequential(layer), "kaiming_normal")
    assert abs(float(layer.weight.detach().std()) / math.sqrt(2 / 60) - 1) < 6 / math.sqrt(4800)
    assert not bool(layer.bias.any())
    assert layer.resets == 0
    initialise_(nn.Sequential(layer), "default")
    assert layer.resets == 1


def test_each_layer_is_drawn_once_in_the_order_of_the_network() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    torch.manual_seed(3)
    initialise_(network, "glorot_normal", gamma="uniform")
    torch.manual_seed(3)
    assert torch.equal(network[0].weight, nn.init.xavier_normal_(torch.empty(4, 5)))
    assert torch.equal(network[2].weight, nn.init.xavier_normal_(torch.empty(3, 4)))
    assert torch.equal(network[1].weight, torch.rand(4))  # scales last


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(2, 3, 3), nn.ConvTranspose2d(2, 3, 3), nn.Bilinear(2, 3, 4)]
)
@pytest.mark.parametrize("init", ["default", "orthogonal"])
def test_layers_of_any_kind_are_drawn(layer: nn.Module, init: str) -> None:
    before = layer.weight.clone()
    initialise_(layer, init)
    assert not torch.equal(layer.weight, before)
    assert bool(layer.bias.any()) == (init == "default")


def test_embeddings_layers_not_yet_shaped_and_loose_parameters_are_left_alone() -> None:
    network = nn.Module()
    network.embedding = nn.Embedding(5, 4)
    network.bag = nn.EmbeddingBag(5, 4)
    network.lazy = nn.LazyLinear(3)
    network.table = nn.Parameter(torch.ones(4, 4))
    before = {"embedding": network.embedding.weight.clone(), "bag": network.bag.weight.clone()}
    for init in ("default", "glorot_normal"):
        initialise_(network, init)
    assert torch.equal(network.embedding.weight, before["embedding"])
    assert torch.equal(network.bag.weight, before["bag"])
    assert bool((network.table == 1).all())
    assert network.lazy(torch.ones(1, 2)).shape == (1, 3)


def test_norm_layers_start_afresh_and_only_batch_norm_has_the_scale() -> None:
    network = nn.Sequential(
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.LayerNorm([4, 4]),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    )
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(7)
    initialise_(network, "orthogonal", gamma=0.5)
    for norm in network:
        start = 0.5 if isinstance(norm, nn.BatchNorm1d) else 1
        for name, tensor in norm.state_dict().items():
            expected = {"weight": start, "running_var": 1}.get(name, 0)
            assert torch.equal(tensor, torch.full_like(tensor, expected)), (norm, name)


def test_nothing_is_drawn_if_a_name_is_wrong() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = network[0].weight.clone()
    with pytest.raises(ValueError, match="are known"):
        initialise_(network, "orthogonl")
    with pytest.raises(ValueError, match="gamma='unform': a number above 0 or 'uniform'"):
        initialise_(network, "orthogonal", "unform")
    assert torch.equal(network[0].weight, before)


def test_the_scale_is_a_constant_or_between_zero_and_one() -> None:
    weight = torch.full((2000,), 7.0)
    scale(0.25)(weight)
    assert bool((weight == 0.25).all())
    scale("uniform")(weight)
    assert 0 <= float(weight.min()) < 0.05 < 0.95 < float(weight.max()) < 1


def test_the_default_initialiser_leaves_drawing_to_the_layer() -> None:
    assert initialiser("default") is None
    assert initialiser("orthogonal") is nn.init.orthogonal_


def test_layers_built_undrawn_take_no_random_number() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    network = nn.Module()
    with undrawn(network):
        network.layer = nn.Linear(8, 6)
        network.norm = nn.BatchNorm1d(6)
    assert torch.equal(torch.get_rng_state(), before)
    initialise_(network, "default")
    torch.manual_seed(3)
    plain = nn.Linear(8, 6)
    assert torch.equal(network.layer.weight, plain.weight)
    assert torch.equal(network.layer.bias, plain.bias)
    assert all(p.requires_grad and p.is_leaf for p in network.parameters())
