import math

import pytest
import torch
from torch import nn

from ltpl.masks import Mask, prune


def lenet_300_100():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
        nn.Linear(100, 10),
    )  # fmt: skip


def small():
    return nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 5))


def test_twenty_rounds_follow_the_ladder_of_the_paper():
    """Frankle and Carbin (2019): 20 % a round and a layer, the output layer at half that rate."""
    model, mask, percent = lenet_300_100(), None, {}
    for done in range(1, 21):
        mask = prune(model, 0.2, scope="layer", rates={"output": 0.5}, mask=mask)
        percent[done] = 100 * mask.density
    assert mask.total == 266_200
    for done, expected in {3: 51.3, 7: 21.1, 9: 13.5, 12: 7.0, 15: 3.6}.items():
        assert round(percent[done], 1) == expected
    for done, expected in {18: 1.85, 20: 1.19}.items():
        assert round(percent[done], 2) == expected


def test_the_model_is_not_changed():
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    mask = prune(model, 0.7)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(keep.requires_grad for keep in mask.values())
    mask.apply_(model)
    assert int(sum((model[i].weight == 0).sum() for i in (0, 3))) == mask.total - mask.kept


def test_only_what_may_be_pruned_is_in_the_mask():
    model = small()
    assert list(prune(model, 0.5)) == ["0.weight", "3.weight"]
    assert list(prune(model, 0.5, include="0.*")) == ["0.weight"]
    assert list(prune(model, 0.5, exclude="0.*")) == ["3.weight"]
    model[0].requires_grad_(False)
    assert list(prune(model, 0.5)) == ["3.weight"]
    assert list(prune(model, 0.5, frozen=True)) == ["0.weight", "3.weight"]


@pytest.mark.parametrize("way", ["excluded", "exempt"])
def test_the_count_never_depends_on_what_is_ignored(way):
    """Pitfall: counting over all layers but ranking over some misses the share asked for."""
    model = nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 400), nn.Linear(400, 10))
    options = {"exclude": "1.*"} if way == "excluded" else {"rates": {"1.*": 0}}
    mask = prune(model, 0.35, **options)
    kept = {row.name: row.kept for row in mask.table()}
    assert kept["0.weight"] + kept["2.weight"] == 5200 - round(0.35 * 5200)
    assert kept.get("1.weight", 16_000) == 16_000
    with torch.no_grad():
        model[1].weight *= 1000
    assert prune(model, 0.35, **options) == mask


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
@pytest.mark.parametrize("criterion", ["magnitude", "random", "synflow"])
def test_a_round_never_brings_a_weight_back(scope, criterion):
    model, mask = small(), None
    for _ in range(3):
        before = mask
        mask = prune(
            model, 0.3, mask=mask, scope=scope, criterion=criterion, batches=[torch.rand(2, 20)]
        )
        if before is not None:
            assert (before & mask) == mask
            assert mask.kept < before.kept
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()  # pruned weights grow again: nobody here holds them down


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "synflow"])
def test_what_is_frozen_by_now_stays_as_it_is_in_the_mask(criterion):
    model, batches = small(), [torch.rand(4, 20)]
    mask = prune(model, 0.5)
    model[0].requires_grad_(False)
    options = {"batches": batches, "loss": lambda model, batch: model(batch).square().sum()}
    after = prune(model, 0.2, mask=mask, criterion=criterion, **options)
    assert torch.equal(after["0.weight"], mask["0.weight"])
    live = mask.table()[1].kept
    assert int(after["3.weight"].count_nonzero()) == live - round(0.2 * live)
    mask.apply_(model)
    assert prune(model, 0.2, mask=mask, criterion=criterion, **options) == after


def test_masks_of_rounds_compound_and_absolute_amounts_do_not():
    """Pitfall: repeating an amount prunes a share of what remains: 0.8, 0.64, 0.512."""
    model = nn.Linear(100, 100)
    compound = absolute = None
    for share, amount in ((0.8, 0.2), (0.64, 0.36), (0.512, 0.488)):
        compound = prune(model, 0.2, mask=compound)
        absolute = prune(model, amount, of="all", mask=absolute)
        assert compound.density == absolute.density == share


@pytest.mark.parametrize("given", ["whole", "partial"])
@pytest.mark.parametrize("of", ["remaining", "all"])
@pytest.mark.parametrize(
    ("scope", "rates"),
    [
        ("global", None),
        ("global", {"output": 0.5}),
        ("global", {"output": 0}),
        ("layer", {"output": 0.5}),
        ("layer", {"0.*": 0}),
        ("erk", None),
    ],
)
def test_an_iterated_criterion_keeps_as_many_as_one_in_a_single_step(scope, rates, of, given):
    model = small()
    nn.init.normal_(model[3].weight, std=model[0].weight.std().item())  # no floor is reached
    mask = prune(model, torch.rand(()).item() * 0.6, criterion="random")
    if given == "partial":
        mask = Mask({"0.weight": mask["0.weight"]})
    options = {"of": of, "scope": scope, "rates": rates, "mask": mask}
    for amount in (0.2, 0.65):
        once = prune(model, amount, **options)
        iterated = prune(model, amount, criterion="synflow", batches=[torch.rand(1, 20)], **options)
        assert iterated.kept == once.kept
        if rates or scope == "layer":
            assert iterated.table()[-1].kept == once.table()[-1].kept


def test_an_iterated_criterion_warns_of_a_floor_once():
    model, batches = small(), [torch.rand(1, 20)]
    with torch.no_grad():
        model[3].weight *= 1e-9
    for criterion in ("magnitude", "synflow"):
        with pytest.warns(
            UserWarning, match=r"min_keep=100 holds weights back in [03]\.weight"
        ) as r:
            mask = prune(model, 0.72, min_keep=100, criterion=criterion, batches=batches)
        assert len(r) == 1
        assert r[0].filename == __file__
        assert mask.kept == 750 - round(0.72 * 750)


def test_a_layer_left_empty_is_named():
    model = small()
    with torch.no_grad():
        model[3].weight *= 1e-9
    with pytest.warns(UserWarning, match=r"No weight is left in 3\.weight: nothing passes") as r:
        mask = prune(model, 0.5, min_keep=0)
    assert len(r) == 1
    assert r[0].filename == __file__
    assert mask.kept == 375
    assert not mask["3.weight"].any()


def test_n_of_m_needs_no_amount_and_respects_what_was_pruned():
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 8))
    mask = prune(model, scope="2:4")
    assert (mask["0.weight"].movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()
    assert (mask["2.weight"].view(-1, 4).sum(1) == 2).all()
    before = prune(model, 0.5, criterion="random")
    after = prune(model, scope="2:4", mask=before)
    assert (after & before) == after
    alive = before["2.weight"].view(-1, 4).sum(1)
    assert torch.equal(after["2.weight"].view(-1, 4).sum(1), alive.clamp_max(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_counts_are_exact_in_every_dtype(dtype):
    model = nn.Linear(300, 400).to(dtype)
    for amount in (0.2, 0.5, 0.9999):
        assert prune(model, amount).kept == 120_000 - round(amount * 120_000)


def test_float64_weights_are_ranked_in_float64():
    model = nn.Linear(100, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(1 + torch.randperm(100, dtype=torch.float64)[None] * 1e-12)
    mask = prune(model, 0.5)["weight"]
    assert model.weight[mask].min() > model.weight[~mask].max()


def test_layers_of_different_dtypes_are_ranked_together():
    model = nn.Sequential(nn.Linear(40, 40).bfloat16(), nn.Linear(40, 40).double())
    mask = prune(model, 0.5)
    assert mask.kept == 1600
    scores = torch.cat([model[i].weight.detach().float().abs().flatten() for i in (0, 1)])
    keep = torch.cat([k.flatten() for k in mask.values()])
    assert scores[keep].min() >= scores[~keep].max()


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    model[1].weight = model[0].weight
    mask = prune(model, 0.5)
    assert (mask.kept, mask.total) == (450, 900)


def test_a_compiled_model_gives_the_mask_of_the_plain_one():
    model = small()
    assert prune(torch.compile(model), 0.5) == prune(model, 0.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "criterion", ["magnitude", "movement", "both_large", "magnitude_same_sign"]
)
def test_weights_that_are_not_finite_are_refused_by_name(criterion, bad):
    model = small()
    init = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model[3].weight[2, 3] = bad
    with pytest.raises(ValueError, match=r"'3\.weight': \d+ scores are NaN or infinite"):
        prune(model, 0.5, criterion=criterion, init=init)


def test_a_mask_of_other_parameters_or_shapes_is_refused():
    model = small()
    with pytest.raises(ValueError, match=r"'0\.weihgt' is not known; did you mean '0\.weight'\?"):
        prune(model, 0.5, mask=Mask({"0.weihgt": torch.ones(30, 20, dtype=torch.bool)}))
    with pytest.raises(ValueError, match=r"'0\.weight' has shape \(20, 30\).*\(30, 20\)"):
        prune(model, 0.5, mask=Mask({"0.weight": torch.ones(20, 30, dtype=torch.bool)}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 1.0}, r"amount=1\.0: a share to prune, 0 <= amount < 1"),
        ({"amount": -0.2}, r"amount=-0\.2"),
        ({"amount": 20}, r"amount=20"),
        ({}, r"amount=None"),
        ({"amount": 0.5, "scope": "globl"}, r"scope='globl' .*did you mean 'global'\?"),
        ({"amount": 0.5, "of": "al"}, r"of='al' .*did you mean 'all'\?"),
        ({"amount": 0.5, "criterion": "magnitud"}, r"did you mean 'magnitude'\?"),
        ({"amount": 0.5, "include": "heda.*"}, r"include='heda\.\*' is not known"),
        ({"amount": 0.5, "exclude": "heda.*"}, r"exclude='heda\.\*' is not known"),
        ({"amount": 0.5, "rates": {"outptu": 1}}, r"did you mean 'output'\?"),
        ({"amount": 0.5, "rates": {"output": 2}}, r"amount times rate is 1 for '3\.weight'"),
        ({"amount": 0.5, "min_keep": -1}, r"min_keep=-1"),
        ({"amount": 0.99, "min_keep": 80}, r"8 weights shall stay in 2 .*min_keep=80"),
        ({"amount": 0.5, "scope": "2:4"}, r"amount=0\.5 with scope='2:4'"),
    ],
)
def test_options_out_of_range_are_refused_with_what_was_given(options, message):
    with pytest.raises(ValueError, match=message):
        prune(small(), **options)


def test_nothing_is_pruned_at_amount_zero():
    model = small()
    assert prune(model, 0.0).density == 1.0
    mask = prune(model, 0.5)
    assert prune(model, 0.0, mask=mask) == mask


def test_the_mask_is_the_same_on_every_call():
    """Pitfall: ranks that break ties at random end with different masks."""
    model = nn.Linear(500, 200).bfloat16()
    masks = [prune(model, 0.5, scope=s) for s in ("global", "layer", "erk") for _ in range(2)]
    assert len({mask.digest for mask in masks}) == 1


@pytest.mark.parametrize("dim", [0, 1])
def test_no_row_of_a_weight_normalised_layer_dies(dim: int) -> None:
    """Its direction is divided by its norm: a row of zeros would turn into NaN."""
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 16), dim=dim)
    direction = layer.parametrizations.weight.original1
    direction.data.mul_(torch.rand(16, 1) ** 4 * torch.rand(1, 8) ** 4)
    mask = None
    for amount in (0.4, 0.5, 0.4):
        mask = prune(layer, amount, mask=mask)
        mask.apply_(layer)
        assert layer(torch.randn(3, 8)).isfinite().all()
    assert mask.kept == 128 - round(0.4 * 128) - 38 - 16
