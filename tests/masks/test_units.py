from __future__ import annotations

import contextlib
import random

import pytest
import torch
from torch import Tensor

from ltpl.masks import Mask, channel_mask
from ltpl.masks.channels import channels, table, told
from ltpl.masks.units import units_of

from .scaled import HOLDS, Norms, kept


def random_units(factors: list[Tensor]) -> dict[str, Tensor]:
    return {f"bn{i}": torch.randint(-1, 6, (len(f),)) for i, f in enumerate(factors)}


@pytest.mark.filterwarnings(HOLDS)
@pytest.mark.parametrize("reduction", ["max", "mean", "union"])
@pytest.mark.parametrize("min_keep", [0, 1])
def test_units_live_and_die_together(reduction: str, min_keep: int) -> None:
    possible = 0
    for _ in range(60):
        factors = [torch.randn(random.randint(2, 9)) for _ in range(3)]
        units = random_units(factors)
        ids = torch.cat(list(units.values()))
        asked = round((amount := random.uniform(0, 0.8)) * int((ids >= 0).sum()))
        options = {"units": units, "reduction": reduction, "min_keep": min_keep}
        with contextlib.suppress(ValueError):  # min_keep holds too many units back
            mask = channel_mask(Norms(*factors), amount, **options)
            possible += 1
            check_units(mask, factors, ids, asked, reduction, min_keep)
    assert possible > 20


def check_units(
    mask: Mask, factors: list[Tensor], ids: Tensor, asked: int, reduction: str, min_keep: int
) -> None:
    stays = torch.cat([mask[f"bn{i}.weight"] for i in range(3)])
    values = torch.cat(factors).abs()
    assert stays[ids == -1].all()
    assert all(int(keep.sum()) >= min_keep for keep in channels(mask, ["bn0", "bn1"]).values())
    alive = {int(u): bool(stays[ids == u].all()) for u in ids.unique() if u >= 0}
    assert all(alive[u] == bool(stays[ids == u].any()) for u in alive)
    gone = int((~stays).sum())
    assert gone <= asked
    assert mask.metadata == {"channels_asked": str(asked), "channels_pruned": str(gone)}
    if reduction == "union" or min_keep:
        return
    worth = {u: getattr(values[ids == u], reduction)().item() for u in alive}
    order = sorted(worth, key=worth.__getitem__)
    dead = [u for u in order if not alive[u]]
    assert dead == order[: len(dead)]
    if len(dead) < len(order):
        assert gone + int((ids == order[len(dead)]).sum()) > asked


def test_what_a_unit_is_worth() -> None:
    net = Norms([0.1, 0.5, 0.6], [0.9, 0.5, 0.2])
    units = {"bn0": torch.tensor([0, 1, 2]), "bn1": torch.tensor([0, 1, 2])}
    first_gone = {
        reduction: kept(channel_mask(net, 0.4, units=units, reduction=reduction), 2)[0]
        for reduction in ("max", "mean", "union")
    }
    assert first_gone["max"] == [True, False, True]  # 0.9, 0.5, 0.6
    assert first_gone["mean"] == [True, True, False]  # 0.5, 0.5, 0.4
    assert first_gone["union"] == [True, True, True]  # 0.1 and 0.2 go alone: no unit is complete


def test_union_removes_what_no_layer_wants() -> None:
    net = Norms([0.1, 0.5, 0.6], [0.2, 0.3, 0.9])
    units = {name: torch.arange(3) for name in ("bn0", "bn1")}
    mask = channel_mask(net, 0.5, units=units, reduction="union")
    assert kept(mask, 2) == [[False, True, True]] * 2
    assert mask.metadata == {"channels_asked": "3", "channels_pruned": "2"}
    lines = told(table(mask, net), mask.metadata).splitlines()
    assert lines[0] == "4 of 6 channels stay; 2 went now, 3 were asked for:"
    assert lines[1:] == ["  bn0: 2 of 3 channels", "  bn1: 2 of 3 channels"]


def no_trunk(gamma: Tensor, name: str) -> Tensor:
    assert name != "bn0"
    return gamma


def test_a_trunk_that_is_kept_needs_no_score_and_does_not_count() -> None:
    net = Norms([0.01, 0.02, 0.03, 0.04], [1.0, 2.0, 3.0, 4.0])
    trunk = {"bn0": torch.ones(4, dtype=torch.bool), "bn1": torch.zeros(4, dtype=torch.bool)}
    added = {"bn0": torch.arange(4), "bn1": torch.arange(4, 8)}
    mask = channel_mask(net, 0.5, units=units_of("inner", added, trunk))
    assert kept(mask, 2) == [[True] * 4, [False, False, True, True]]
    inner = units_of("inner", added, trunk)
    assert channel_mask(net, 0.5, score=no_trunk, units=inner)["bn0.weight"].all()
    assert units_of("all", added, trunk) is None
    assert units_of("group", added, trunk) == added
    with pytest.raises(ValueError, match=r"trunk='outer' is not known.*all, inner, group"):
        units_of("outer", added, trunk)


def test_layers_without_units_are_pruned_channel_by_channel() -> None:
    net = Norms([0.1, 0.2], [0.3, 0.4], [5.0, 6.0])
    mask = channel_mask(net, 0.33, units={"bn2": torch.tensor([-1, -1])})
    assert kept(mask, 3) == [[False, True], [True, True], [True, True]]
