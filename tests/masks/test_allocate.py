import math
import re
import warnings
from itertools import pairwise

import pytest
import torch

from ltpl.masks.allocate import allocate
from ltpl.masks.threshold import Scores

SHAPES = {"conv": (8, 4, 3, 3), "fc": (30, 32), "head": (10, 30)}


def layers(shapes=SHAPES, alive=1.0, values=torch.randn):
    return {
        name: Scores(
            name,
            (values(math.prod(shape)),),
            torch.abs,
            None if alive == 1 else torch.rand(math.prod(shape)) < alive,
        )
        for name, shape in shapes.items()
    }


def coarse(n):
    return torch.randint(1, 5, (n,)).float()


def counts(masks):
    return {name: int(keep.count_nonzero()) for name, keep in masks.items()}


def living(scores):
    return {name: x.live for name, x in scores.items()}


def ranked(scores, names):
    """Return (name, position) of all live weights: best first, of equals the first position."""
    found = [
        (-float(value), at, name, position)
        for at, name in enumerate(names)
        for position, value in enumerate(scores[name].inputs[0].abs())
        if scores[name].alive is None or scores[name].alive[position]
    ]
    return [(name, position) for _, _, name, position in sorted(found)]


def as_masks(scores, chosen):
    masks = {name: torch.zeros(x.total, dtype=torch.bool) for name, x in scores.items()}
    for name, position in chosen:
        masks[name][position] = True
    return masks


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in found:
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("values", [torch.randn, coarse])
@pytest.mark.parametrize("alive", [1.0, 0.6])
@pytest.mark.parametrize("amount", [0.0, 0.2, 0.77])
def test_global_keeps_the_best_of_the_whole_network(amount, alive, values):
    scores = layers(alive=alive, values=values)
    order = ranked(scores, scores)
    keep = len(order) - round(amount * len(order))
    assert_same(allocate(scores, SHAPES, amount, min_keep=0), as_masks(scores, order[:keep]))


@pytest.mark.parametrize("alive", [1.0, 0.6])
@pytest.mark.parametrize("amount", [0.0, 0.2, 0.77])
def test_layer_keeps_the_best_of_each(amount, alive):
    scores = layers(alive=alive, values=coarse)
    expected = []
    for name in scores:
        order = ranked(scores, [name])
        expected += order[: len(order) - round(amount * len(order))]
    assert_same(allocate(scores, SHAPES, amount, scope="layer"), as_masks(scores, expected))


def test_a_layer_of_constant_magnitude_keeps_exactly_what_was_asked():
    """Pitfall: a threshold with `<=` removes every tie; a sign-constant layer goes to zero."""
    scores = layers(values=lambda n: torch.where(torch.rand(n) < 0.5, -0.1, 0.1))
    for scope in ("global", "layer", "erk"):
        masks = allocate(scores, SHAPES, 0.5, scope=scope, min_keep=0)
        assert sum(counts(masks).values()) == 774
    assert counts(allocate(scores, SHAPES, 0.5, scope="layer")) == {
        "conv": 144,
        "fc": 480,
        "head": 150,
    }


def test_remaining_compounds_and_all_is_absolute():
    """Pitfall: repeating an amount prunes a share of what remains: 0.8, 0.64, 0.512."""
    shapes = {"w": (100, 100)}
    weight = torch.randn(10_000)
    for of, kept in (("remaining", [8000, 6400, 5120]), ("all", [8000, 8000, 8000])):
        alive = None
        for expected in kept:
            scores = {"w": Scores("w", (weight,), torch.abs, alive)}
            alive = allocate(scores, shapes, 0.2, of)["w"]
            assert int(alive.count_nonzero()) == expected


def test_all_reaches_the_share_whatever_was_pruned_before():
    scores = layers(alive=0.6)
    live = sum(living(scores).values())
    assert sum(counts(allocate(scores, SHAPES, 0.75, "all")).values()) == 1548 // 4
    assert counts(allocate(scores, SHAPES, 0.1, "all")) == living(scores)
    assert live < 0.9 * 1548


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
@pytest.mark.parametrize("amount", [0.3, 0.9])
def test_dead_weights_stay_dead_and_the_total_is_exact(scope, amount):
    scores = layers(alive=0.5, values=lambda n: torch.zeros(n))
    masks = allocate(scores, SHAPES, amount, scope=scope, min_keep=0)
    assert not any((masks[n] & ~x.alive).any() for n, x in scores.items())
    live = living(scores)
    if scope == "layer":
        assert counts(masks) == {n: k - round(amount * k) for n, k in live.items()}
    else:
        total = sum(live.values())
        assert sum(counts(masks).values()) == total - round(amount * total)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_output_layer_goes_at_half_the_rate(scope):
    scores = layers()
    masks = allocate(scores, SHAPES, 0.2, scope=scope, rates={"conv": 1, "fc": 1, "head": 0.5})
    kept = counts(masks)
    assert kept["head"] == 300 - 30
    assert kept["conv"] + kept["fc"] == 1248 - round(0.2 * 1248)
    if scope == "global":
        order = ranked(scores, ["conv", "fc"])[: 1248 - 250] + ranked(scores, ["head"])[:270]
        assert_same(masks, as_masks(scores, order))


@pytest.mark.parametrize("scope", ["global", "layer", "erk", "2:4"])
@pytest.mark.parametrize("alive", [1.0, 0.5])
def test_exempt_layers_never_lose_a_weight_and_do_not_count(scope, alive):
    """Pitfall: counting over all layers but ranking over some misses the share asked for."""
    shapes = SHAPES | {"head": (10, 32)}
    scores = layers(shapes, alive)
    rates = {"conv": 1.0, "fc": 1.0, "head": 0.0}
    amount = None if ":" in scope else 0.4
    masks = allocate(scores, shapes, amount, scope=scope, rates=rates)
    live = living(scores)
    assert counts(masks)["head"] == live["head"]
    if amount:
        group = live["conv"] + live["fc"]
        kept = counts(masks)["conv"] + counts(masks)["fc"]
        assert abs(kept - (group - amount * group)) <= (1 if scope == "layer" else 0.5)
    without = {name: scores[name] for name in ("conv", "fc")}
    alone = allocate(without, shapes, amount, scope=scope)
    assert_same({name: masks[name] for name in without}, alone)


def test_amount_times_rate_must_stay_below_one():
    with pytest.raises(ValueError, match=r"amount times rate is 1\.2 for 'fc'"):
        allocate(layers(), SHAPES, 0.4, rates={"conv": 1, "fc": 3, "head": 1}, scope="layer")


def with_floors(scores, keep, floor):
    """Give each layer its best `floor` weights first, then let the network compete."""
    first = [w for name in scores for w in ranked(scores, [name])[:floor]]
    rest = [w for w in ranked(scores, scores) if w not in set(first)]
    return as_masks(scores, first + rest[: keep - len(first)])


@pytest.mark.parametrize("alive", [1.0, 0.5])
@pytest.mark.parametrize("floor", [1, 5, 12])
def test_a_floor_holds_back_and_others_go_instead(floor, alive):
    """Pitfall: under global pruning thin layers vanish first and nothing passes any more."""
    shapes = {"wide": (40, 20), "thin": (4, 4), "thinner": (2, 10)}
    scores = layers(shapes, alive, coarse)
    for name in ("thin", "thinner"):
        scores[name].inputs[0].mul_(0.01)
    live = sum(living(scores).values())
    keep = live - round(0.9 * live)
    with pytest.warns(UserWarning, match="holds weights back") as record:
        masks = allocate(scores, shapes, 0.9, min_keep=floor)
    assert len(record) == 1
    assert f"min_keep={floor} holds weights back in thin, thinner;" in str(record[0].message)
    assert sum(counts(masks).values()) == keep
    assert_same(masks, with_floors(scores, keep, floor))


def test_all_layers_held_by_floors_are_named_in_one_warning():
    shapes = {"a": (10, 10), "b": (3, 2), "c": (10, 10), "d": (3, 2)}
    scores = layers(shapes)
    for name in ("b", "d"):
        scores[name].inputs[0].mul_(0.001)
    rates = {"a": 1.0, "b": 1.0, "c": 0.9, "d": 0.9}
    with pytest.warns(UserWarning, match=r"back in b, d;") as record:
        masks = allocate(scores, shapes, 0.8, rates=rates)
    assert len(record) == 1
    assert counts(masks)["b"] == counts(masks)["d"] == 1
    assert counts(masks)["a"] == 106 - round(0.8 * 106) - 1


def test_a_floor_that_holds_nothing_back_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        allocate(layers(), SHAPES, 0.5, min_keep=3, scope="layer")


@pytest.mark.parametrize("scope", ["layer", "erk"])
def test_floors_keep_the_total_exact_when_each_layer_has_its_own_count(scope):
    shapes = {"wide": (60, 50), "middle": (20, 10), "thin": (2, 5), "tiny": (1, 3)}
    scores = layers(shapes, alive=0.8)
    live = living(scores)
    free = allocate(scores, shapes, 0.95, scope=scope, min_keep=0)
    floors = {name: min(40, count) for name, count in live.items()}
    short = [name for name, count in counts(free).items() if count < floors[name]]
    assert short
    with pytest.warns(UserWarning, match=re.escape(f"back in {', '.join(short)};")):
        masks = allocate(scores, shapes, 0.95, scope=scope, min_keep=40)
    assert sum(counts(masks).values()) == sum(counts(free).values())
    assert all(count >= floors[name] for name, count in counts(masks).items())
    for name, x in scores.items():
        best = ranked(scores, [name])[: counts(masks)[name]]
        assert torch.equal(masks[name], as_masks({name: x}, best)[name])


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
def test_impossible_floors_are_refused(scope):
    shapes = {"a": (10, 10), "b": (10, 10)}
    with pytest.raises(ValueError, match=r"20 weights shall stay.*min_keep=11 already keeps 22"):
        allocate(layers(shapes), shapes, 0.9, scope=scope, min_keep=11)


def by_bisection(shapes, live, keep):
    """Erdos-Renyi-Kernel: shares of sum(shape) / prod(shape), the same factor for all, capped."""
    low, high = 0.0, 1e9
    for _ in range(200):
        factor = (low + high) / 2
        kept = {n: min(live[n], factor * sum(shape)) for n, shape in shapes.items()}
        low, high = (factor, high) if sum(kept.values()) < keep else (low, factor)
    return kept


@pytest.mark.parametrize("alive", [1.0, 0.9])
@pytest.mark.parametrize("amount", [0.5, 0.9, 0.98])
def test_erk_agrees_with_a_bisection_also_where_layers_are_capped(amount, alive):
    shapes = {
        "stem": (16, 3, 3, 3),
        "conv": (64, 32, 3, 3),
        "one": (64, 32, 1, 1),
        "fc": (200, 300),
        "head": (10, 200),
    }
    scores = layers(shapes, alive)
    live = living(scores)
    keep = sum(live.values()) - round(amount * sum(live.values()))
    kept = counts(allocate(scores, shapes, amount, scope="erk"))
    expected = by_bisection(shapes, live, keep)
    assert sum(kept.values()) == keep
    assert kept == pytest.approx(expected, abs=3)
    if amount == 0.5:
        assert kept["stem"] == live["stem"]  # capped: ERK asks for more than there is
        assert kept["head"] == live["head"]


def test_erk_layers_with_equal_shapes_share_equally():
    shapes = {name: (30, 30) for name in "abc"}
    kept = counts(allocate(layers(shapes), shapes, 0.5, scope="erk"))
    assert kept == {"a": 450, "b": 450, "c": 450}


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8), (1, 2)])
@pytest.mark.parametrize("shape", [(12, 32), (6, 16, 3, 3), (5, 8, 7), (1, 8)])
def test_n_of_m_keeps_the_best_n_of_m_neighbours_along_the_inputs(shape, n, m):
    scores = layers({"w": shape}, values=coarse)
    keep = allocate(scores, {"w": shape}, None, scope=f"{n}:{m}")["w"].view(shape)
    values = scores["w"].inputs[0].view(shape)
    flat_keep = keep.movedim(1, -1).reshape(-1, m).tolist()
    flat_values = values.movedim(1, -1).reshape(-1, m).tolist()
    for kept, group in zip(flat_keep, flat_values, strict=True):
        best = sorted(range(m), key=lambda i: (-group[i], i))[:n]
        assert kept == [i in best for i in range(m)]


def test_n_of_m_works_through_layers_larger_than_one_piece():
    shape = (1050, 1024)
    scores = layers({"w": shape})
    keep = allocate(scores, {"w": shape}, None, scope="2:4")["w"].view(-1, 4)
    assert (keep.sum(1) == 2).all()
    values = scores["w"].inputs[0].view(-1, 4).abs()
    worst = values.masked_fill(~keep, math.inf).amin(1)
    assert (worst >= values.masked_fill(keep, -math.inf).amax(1)).all()


def test_n_of_m_takes_what_lives_and_revives_nothing():
    shape = (40, 16)
    scores = layers({"w": shape}, alive=0.5)
    keep = allocate(scores, {"w": shape}, None, scope="2:4")["w"]
    assert not (keep & ~scores["w"].alive).any()
    alive = scores["w"].alive.view(-1, 4).sum(1)
    assert torch.equal(keep.view(-1, 4).sum(1), alive.clamp_max(2))


def test_n_of_m_leaves_layers_that_do_not_divide_and_says_so():
    shapes = {"stem": (16, 3, 3, 3), "fc": (10, 16), "odd": (4, 10)}
    scores = layers(shapes)
    with pytest.warns(UserWarning, match=r"2:4 leaves stem \(3 inputs\), odd \(10 inputs\) as th"):
        masks = allocate(scores, shapes, None, scope="2:4")
    assert counts(masks) == {"stem": 432, "fc": 80, "odd": 40}
    with (
        pytest.warns(UserWarning, match="odd"),
        pytest.raises(ValueError, match=r"'2:4': no parameter has inputs that divide by 4"),
    ):
        allocate({"odd": scores["odd"]}, shapes, None, scope="2:4")


@pytest.mark.parametrize("scope", ["erk", "2:4"])
def test_scopes_that_set_the_shares_themselves_take_no_rates_but_zero(scope):
    amount = None if ":" in scope else 0.5
    rates = {"conv": 1.0, "fc": 0.5, "head": 0.0}
    with pytest.raises(ValueError, match=r"rate 0\.5 for 'fc' with scope="):
        allocate(layers(), SHAPES, amount, scope=scope, rates=rates)


@pytest.mark.parametrize("amount", [-0.1, 1, 1.0, 20, math.nan, None])
@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
def test_amounts_out_of_range_are_refused(amount, scope):
    with pytest.raises(ValueError, match=rf"amount={amount}: a share to prune, 0 <= amount < 1"):
        allocate(layers(), SHAPES, amount, scope=scope)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "globl"}, r"scope='globl' is not known; did you mean 'global'\? Allowed: gl"),
        ({"of": "remainder"}, r"of='remainder' is not known; did you mean 'remaining'\?"),
        ({"min_keep": -1}, r"min_keep=-1: at least 0"),
        ({"scope": "2:4"}, r"amount=0\.5 with scope='2:4': an N:M scope fixes the share"),
        ({"scope": "4:4"}, r"scope='4:4': N:M keeps N of M weights, with N < M"),
        ({"scope": "0:4"}, r"scope='0:4' is not known"),
        ({"scope": "24"}, r"scope='24' is not known"),
    ],
)
def test_unknown_options_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        allocate(layers(), SHAPES, 0.5, **options)


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
def test_steps_on_the_way_shrink_geometrically_and_arrive_at_the_count_of_one_step(scope):
    shapes = SHAPES | {"thin": (2, 3)}
    scores = layers(shapes)
    scores["thin"].inputs[0].mul_(1e-6)
    before = living(scores)
    warned = scope != "erk"  # which gives thin layers more than the floor by itself
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        once = allocate(scores, shapes, 0.9, scope=scope, min_keep=4)
    assert len(record) == warned
    totals = [sum(before.values())]
    for done in range(1, 11):
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            masks = allocate(
                scores, shapes, 0.9, scope=scope, min_keep=4, way=done / 10, before=before
            )
        assert len(record) == (warned and done == 10)  # only what is final is worth a warning
        for name, x in scores.items():
            assert x.alive is None or not (masks[name] & ~x.alive).any()
            scores[name] = Scores(name, x.inputs, torch.abs, masks[name])
        totals.append(sum(counts(masks).values()))
    assert totals[-1] == sum(counts(once).values())
    assert totals == sorted(totals, reverse=True)
    shares = [other / one for one, other in pairwise(totals)]
    assert shares == pytest.approx([0.1**0.1] * 10, abs=0.03)
