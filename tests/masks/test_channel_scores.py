from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ltpl.masks import channel_mask
from ltpl.masks.channels import channels

from .scaled import HOLDS, Norms, by_rule


@pytest.mark.filterwarnings(HOLDS)
def test_filters_are_found_in_the_order_of_registration() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 5, 2),
        nn.BatchNorm2d(5),
        nn.Flatten(),
        nn.Linear(5, 4),
        nn.BatchNorm1d(4),
    )
    for name, order in (("l1", 1), ("l2", 2)):
        mask = channel_mask(net, 0.4, score=name)
        rows = [net[0].weight.flatten(1), net[2].weight.transpose(0, 1).flatten(1), net[5].weight]
        norms = [row.detach().norm(order, dim=1) for row in rows]
        assert [channels(mask, net)[i].tolist() for i in "136"] == by_rule(norms, 6, 1)


def test_producers_say_which_filters_count() -> None:
    net = Norms(torch.ones(3))
    net.filters = nn.Linear(3, 7)
    mask = channel_mask(net, 0.4, score="l1", producers={"bn0": ("filters.weight", 1)})
    lowest = int(net.filters.weight.abs().sum(0).argmin())
    assert mask["bn0.weight"].tolist() == [i != lowest for i in range(3)]
    with pytest.raises(ValueError, match="with 3 outputs comes before 'bn0'"):
        channel_mask(net, 0.4, score="l1")
    with pytest.raises(ValueError, match="producers has no entry for 'bn0'"):
        channel_mask(net, 0.4, score="l1", producers={})


def test_taylor_is_the_squared_change_of_the_loss_averaged_over_batches() -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    nn.init.normal_(net[1].weight)
    nn.init.normal_(net[1].bias)
    batches = [(torch.randn(8, 5), torch.randint(3, (8,))) for _ in range(3)]
    twin = copy.deepcopy(net)
    scores = torch.zeros(6)
    for x, y in batches:
        twin.zero_grad()
        cross_entropy(twin(x), y).backward()
        bn = twin[1]
        scores += (bn.weight * bn.weight.grad + bn.bias * bn.bias.grad).detach() ** 2 / 3
    before = copy.deepcopy(net.state_dict())
    mask = channel_mask(
        net, 0.5, score="taylor", batches=batches, loss=lambda m, b: cross_entropy(m(b[0]), b[1])
    )
    assert mask["1.weight"].tolist() == by_rule([scores], 3, 1)[0]
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_random_is_seeded_and_does_not_look() -> None:
    net, other = Norms(torch.randn(40), torch.randn(30)), Norms(torch.randn(40), torch.randn(30))
    assert channel_mask(net, 0.5, score="random") == channel_mask(other, 0.5, score="random")
    assert channel_mask(net, 0.5, score="random") != channel_mask(net, 0.5, score="random", seed=1)


def largest_shift(beta: Tensor) -> Tensor:
    return beta.abs()


def test_a_score_of_yours_by_function_or_dotted_path() -> None:
    net = Norms(torch.randn(8))
    by_path = channel_mask(net, 0.5, score=f"{__name__}.largest_shift")
    assert by_path == channel_mask(net, 0.5, score=largest_shift)
    assert by_path["bn0.bias"].tolist() == by_rule([net.bn0.bias.data], 4, 1)[0]
