"""`channel_mask` against a rule written down another way."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ltpl.masks import Mask, channel_mask
from ltpl.masks.channel_scores import tells_apart
from ltpl.masks.channels import channels, table

from .scaled import HOLDS, Norms, by_rule, kept


def drawn(layers: int, ties: bool) -> list[Tensor]:
    sizes = [random.randint(1, 9) for _ in range(layers)]
    if ties:
        return [torch.randint(-3, 4, (size,)) / 4 for size in sizes]
    return [torch.randn(size) * 10 ** random.uniform(-3, 1) for size in sizes]


@pytest.mark.filterwarnings(HOLDS, "ignore:All .* channels have the same score")
@pytest.mark.parametrize("min_keep", [0, 1, 2, 3])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_exactly_the_smallest_go(ties: bool, min_keep: int) -> None:
    for _ in range(40):
        factors = drawn(random.randint(1, 5), ties)
        total = sum(map(len, factors))
        most = total - sum(min(min_keep, len(f)) for f in factors)
        amount = random.uniform(0, most / total) * 0.999
        mask = channel_mask(Norms(*factors), amount, min_keep=min_keep)
        expected = by_rule(factors, round(amount * total), min_keep)
        assert kept(mask, len(factors)) == expected
        assert mask.total - mask.kept == 2 * round(amount * total)


def test_beta_goes_with_gamma_so_that_a_pruned_channel_is_silent() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sigmoid())
    nn.init.normal_(net[1].weight)
    nn.init.normal_(net[1].bias)
    mask = channel_mask(net, 0.5)
    assert list(mask) == ["1.weight", "1.bias"]
    assert torch.equal(mask["1.weight"], mask["1.bias"])
    mask.apply_(net)
    silent = net[:2](torch.randn(4, 3, 6, 6)).flatten(2).abs().sum((0, 2)) == 0
    assert torch.equal(silent, ~mask["1.weight"])


def test_a_norm_without_beta_has_only_gamma() -> None:
    net = Norms(torch.randn(4), torch.randn(4))
    net.bn0.register_parameter("bias", None)
    assert list(channel_mask(net, 0.25)) == ["bn0.weight", "bn1.weight", "bn1.bias"]


def test_a_layer_of_small_factors_is_not_emptied_and_others_go_instead() -> None:
    small, large = torch.rand(6) * 1e-3, 1 + torch.rand(10)
    with pytest.warns(UserWarning, match="min_keep=2 holds channels back in bn0;"):
        mask = channel_mask(Norms(small, large), 0.5, min_keep=2)
    rows = table(mask, ["bn0", "bn1"])
    assert [row.kept for row in rows] == [2, 6]
    assert [row.total for row in rows] == [6, 10]
    assert set(small[mask["bn0.weight"]].tolist()) == set(small.topk(2).values.tolist())


def test_equal_factors_still_give_the_exact_count_by_position_with_a_warning() -> None:
    net = Norms(torch.full((6,), 0.5), torch.full((4,), 0.5))
    with pytest.warns(UserWarning, match="same score 0.5 by 'gamma', which says nothing"):
        mask = channel_mask(net, 0.3)
    assert kept(mask, 2) == [[True] * 6, [True, False, False, False]]
    assert not tells_apart({"bn": torch.full((3,), 0.1)})
    assert tells_apart({"a": torch.full((3,), 0.1), "b": torch.tensor([0.2])})


@pytest.mark.filterwarnings(HOLDS)
def test_nothing_pruned_comes_back() -> None:
    net = Norms(torch.randn(12), torch.randn(9), torch.randn(4))
    first = channel_mask(net, 0.4)
    for norm in net.children():
        nn.init.normal_(norm.weight)
    for amount, of, left in ((0.6, "all", 10), (0.2, "remaining", 12), (0.2, "all", 15)):
        mask = channel_mask(net, amount, mask=first, of=of)
        assert (mask & first) == mask
        assert sum(row.kept for row in table(mask, net)) == left


def test_other_parameters_of_an_earlier_mask_stay_as_they_are() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    nn.init.normal_(net[1].weight)
    weights = Mask({"0.weight": torch.rand(6, 4) > 0.5})
    mask = channel_mask(net, 0.5, mask=weights)
    assert torch.equal(mask["0.weight"], weights["0.weight"])
    assert list(channels(mask, net)) == ["1"]


def test_the_model_is_not_changed() -> None:
    net = Norms(torch.randn(5))
    before = copy.deepcopy(net.state_dict())
    channel_mask(net, 0.4, mask=channel_mask(net, 0.2))
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 1.0}, r"amount=1\.0: a share to prune, 0 <= amount < 1"),
        ({"of": "some"}, "of='some' is not known.*remaining, all"),
        ({"reduction": "sum"}, "reduction='sum' is not known.*max, mean, union"),
        ({"min_keep": -1}, "min_keep=-1: at least 0"),
        ({"min_keep": 3}, "4 of 7 channels shall go, but min_keep=3 lets only 1 go in 2 layers"),
        ({"score": "gama"}, "score='gama' is not known; did you mean 'gamma'"),
        ({"score": "no.such"}, "score='no.such' cannot be imported"),
        ({"score": lambda logits: logits}, r"takes \['logits'\]; a score takes some of"),
        ({"score": lambda gamma: gamma[:1]}, r"\(1,\) for 'bn0'; one number for each of its 4"),
        ({"score": lambda gamma: gamma / 0}, "'bn0': 4 scores are NaN or infinite"),
        ({"score": "taylor"}, r"score='taylor' needs batches=\.\.\.; it was not given"),
        ({"kinds": "bacth"}, "kinds='bacth' is not known; did you mean 'batch'"),
        ({"kinds": []}, "at least one of batch, instance, group, layer"),
        ({"kinds": "instance"}, "of kind instance is left in Norms.*has some of kind batch"),
        ({"include": "bn7"}, "include='bn7' is not known; did you mean 'bn[01]'"),
        ({"exclude": "*"}, r"is left in Norms with include=None, exclude='\*'"),
        ({"units": {"bn0": torch.arange(3)}}, r"units\['bn0'\] has 3 entries; the layer has 4"),
        ({"units": {f"bn{i}": torch.full((4 - i,), -1) for i in (0, 1)}}, "No channel of bn0, bn1"),
        ({"mask": Mask({"bn9.weight": torch.ones(2) > 0})}, "parameter='bn9.weight' is not known"),
    ],
)
def test_a_wrong_option_is_one_clear_error(options: dict[str, Any], message: str) -> None:
    net = Norms([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7])
    with pytest.raises(ValueError, match=message) as error:
        channel_mask(net, **{"amount": 0.5, **options})
    assert "\n" not in str(error.value)
