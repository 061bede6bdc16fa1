import math

import pytest
import torch
from torch import nn

from ltpl.masks import CRITERIA, Criterion, prune
from ltpl.masks.criteria import find_criterion

ZHOU = [
    "magnitude",
    "large_final",
    "small_final",
    "large_init",
    "small_init",
    "both_large",
    "both_small",
    "magnitude_increase",
    "movement",
]


def by_hand(name, final, init):
    """Zhou et al. (2019), one weight at a time."""
    of_final = sum(map(abs, final)) / len(final)
    of_init = sum(map(abs, init)) / len(init)
    formulas = {
        "magnitude": lambda f, i: abs(f),
        "large_final": lambda f, i: abs(f),
        "small_final": lambda f, i: -abs(f),
        "large_init": lambda f, i: abs(i),
        "small_init": lambda f, i: -abs(i),
        "both_large": lambda f, i: min(abs(f) / of_final, abs(i) / of_init),
        "both_small": lambda f, i: -max(abs(f) / of_final, abs(i) / of_init),
        "magnitude_increase": lambda f, i: abs(f) - abs(i),
        "movement": lambda f, i: abs(f - i),
    }
    return [formulas[name](f, i) for f, i in zip(final, init, strict=True)]


def layer(*shape):
    model = nn.Linear(shape[1], shape[0], bias=False)
    return model, {"weight": torch.randn(shape)}


@pytest.mark.parametrize("name", ZHOU)
def test_each_criterion_is_its_formula(name):
    final, init = torch.randn(2, 6, 5)
    criterion = find_criterion(name)
    given = {"weight": final, "init": init}
    scores = criterion.score(**{need: given[need] for need in criterion.needs})
    expected = by_hand(name, final.flatten().tolist(), init.flatten().tolist())
    assert scores.flatten().tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ZHOU)
def test_pruning_keeps_the_highest_scores(name):
    model, init = layer(20, 30)
    mask = prune(model, 0.6, criterion=name, init=init)["weight"].flatten().tolist()
    expected = by_hand(name, model.weight.flatten().tolist(), init["weight"].flatten().tolist())
    worst_kept = min(s for s, keep in zip(expected, mask, strict=True) if keep)
    best_pruned = max(s for s, keep in zip(expected, mask, strict=True) if not keep)
    assert sum(mask) == 240
    assert worst_kept >= best_pruned - 1e-6


@pytest.mark.parametrize("name", ZHOU)
def test_weights_that_changed_sign_go_first_and_the_count_stays_exact(name):
    model, init = layer(20, 30)
    changed = model.weight.sign() != init["weight"].sign()
    same = int((~changed).count_nonzero())
    plain = prune(model, 0.9, criterion=name, init=init)["weight"]
    for keep in (60, same - 1, same, same + 20):
        mask = prune(model, 1 - keep / 600, criterion=f"{name}_same_sign", init=init)["weight"]
        assert int(mask.count_nonzero()) == keep
        assert int((mask & changed).count_nonzero()) == max(0, keep - same)
    assert (plain & changed).any()
    best = prune(model, 0.9, criterion=f"{name}_same_sign", init=init)["weight"]
    scores = by_hand(name, model.weight.flatten().tolist(), init["weight"].flatten().tolist())
    scores = torch.tensor(scores).view(20, 30).masked_fill(changed, -math.inf)
    assert scores[best].min() >= scores[~best].max() - 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", [*ZHOU, "random"])
def test_no_dead_weight_is_revived_where_all_live_ones_have_the_lowest_score(name, dtype):
    """The signs of all live weights changed: all are last, and yet above the dead."""
    model, _ = layer(20, 30)
    model.to(dtype)
    init = {"weight": -model.weight.detach().clone()}
    mask = prune(model, 0.5, criterion="random", seed=1)
    dead = ~mask["weight"]
    init["weight"][dead] *= -100  # the dead have signs and magnitudes that win
    with torch.no_grad():
        model.weight[dead] *= 100
    criterion = name if name == "random" else f"{name}_same_sign"
    for amount, kept in ((0.0, 300), (0.1, 270), (0.9, 30)):
        after = prune(model, amount, criterion=criterion, init=init, mask=mask)
        assert after.kept == kept
        assert not (after["weight"] & dead).any()


def test_random_is_repeated_by_its_seed_and_differs_by_parameter_and_seed():
    model = nn.Sequential(*(nn.Linear(40, 40) for _ in range(3)))
    before = torch.get_rng_state()
    one = prune(model, 0.5, criterion="random", scope="layer", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert prune(model, 0.5, criterion="random", scope="layer", seed=3) == one
    assert prune(model, 0.5, criterion="random", scope="layer", seed=4) != one
    layers = list(one.values())
    for i, keep in enumerate(layers):
        for other in layers[:i]:
            assert 0.4 < (keep == other).float().mean() < 0.6


def test_random_does_not_look_at_the_weights():
    model = nn.Linear(40, 40)
    one = prune(model, 0.5, criterion="random")
    nn.init.zeros_(model.weight)
    assert prune(model, 0.5, criterion="random") == one


def test_movement_of_bfloat16_weights_is_computed_in_fp32():
    """Pitfall: the difference of two bf16 numbers rounds to bf16, and different scores tie."""
    model = nn.Linear(2, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 1.0]]))
    init = {"weight": torch.tensor([[-256.0, -256.0]]).bfloat16()}
    first, second = (model.weight.detach() - init["weight"]).abs().flatten()
    assert first == second  # 256 and 257 are one bf16 number; the first position would stay
    mask = prune(model, 0.5, criterion="movement", init=init)
    assert mask["weight"].tolist() == [[False, True]]


def test_both_large_and_small_survive_a_layer_of_zeros():
    model = nn.Linear(6, 5, bias=False)
    nn.init.zeros_(model.weight)
    for name in ("both_large", "both_small"):
        mask = prune(model, 0.5, criterion=name, init={"weight": torch.zeros(5, 6)})
        assert mask.kept == 15


def middle(weight):
    """Keep what is near one half."""
    return -(weight - 0.5).abs()


def by_name_and_start(name, weight, init):
    return (weight - init) if name == "weight" else weight


def test_a_function_of_the_user_works_directly_and_by_dotted_path():
    model, init = layer(20, 30)
    direct = prune(model, 0.9, criterion=middle)
    assert prune(model, 0.9, criterion=f"{__name__}.middle") == direct
    distance = (model.weight - 0.5).abs()
    assert distance[direct["weight"]].max() <= distance[~direct["weight"]].min()
    named = prune(model, 0.5, criterion=by_name_and_start, init=init)["weight"]
    raised = (model.weight - init["weight"]).detach()
    assert raised[named].min() >= raised[~named].max()


def test_a_function_of_the_user_may_score_the_whole_network():
    def mine(model, parameters, batches):
        return {name: p.detach() * sum(batches) for name, p in parameters.items()}

    model, _ = layer(20, 30)
    mask = prune(model, 0.5, criterion=mine, batches=[1.0, 2.0])["weight"]
    assert model.weight[mask].min() >= model.weight[~mask].max()


def test_scores_of_integers_and_booleans_are_ranked():
    model, _ = layer(20, 30)
    mask = prune(model, 0.5, criterion=lambda weight: weight > 0)["weight"]
    positive = model.weight > 0
    assert mask.count_nonzero() == 300
    assert int((mask & positive).count_nonzero()) == min(300, int(positive.count_nonzero()))


def test_a_criterion_object_is_taken_as_it_is():
    criterion = Criterion("mine", middle, elementwise=True)
    assert find_criterion(criterion) is criterion
    model, _ = layer(20, 30)
    assert prune(model, 0.5, criterion=criterion) == prune(model, 0.5, criterion=middle)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("magnitud", r"criterion='magnitud' is not known; did you mean 'magnitude'\?"),
        ("sinflow", r"did you mean 'synflow'\?"),
        ("no.such.module.score", r"'no\.such\.module\.score' cannot be imported: No module named"),
        ("torch.no_such_score", r"'torch\.no_such_score' cannot be imported: .*no_such_score"),
        (".relative.score", r"'\.relative\.score' cannot be imported"),
        ("math.pi", r"'math\.pi' is no Python function whose arguments can be read"),
        ("torch.abs", r"'torch\.abs' is no Python function .*wrap it"),
        (lambda w: w, r"takes \['w'\]; a criterion takes some of \['weight', 'init'"),
        (lambda: 1, r"takes \[\]; a criterion takes some of"),
        (lambda model, weight: 1, r"takes \['model', 'weight'\]"),
    ],
)
def test_what_is_no_criterion_is_refused_with_what_is_allowed(given, message):
    with pytest.raises(ValueError, match=message):
        find_criterion(given)


def test_the_registry_holds_every_score_of_the_papers():
    papers = {*ZHOU, *(f"{name}_same_sign" for name in ZHOU), "random", "snip", "grasp", "synflow"}
    assert set(CRITERIA) == papers
    assert all(CRITERIA[name].name == name for name in papers)


def test_init_must_be_given_and_hold_every_parameter():
    model, _ = layer(4, 5)
    with pytest.raises(ValueError, match=r"'movement' needs init=\.\.\.; it was not given"):
        prune(model, 0.5, criterion="movement")
    with pytest.raises(ValueError, match=r"'movement': init has no value for 'weight'"):
        prune(model, 0.5, criterion="movement", init={"wight": torch.ones(4, 5)})
    with pytest.raises(ValueError, match=r"'weight' it sees shape \(5, 4\), but .* \(4, 5\)"):
        prune(model, 0.5, criterion="movement", init={"weight": torch.ones(5, 4)})
    with pytest.raises(ValueError, match=r"for 'weight' it sees shape \(4,\)"):
        prune(model, 0.5, criterion=lambda weight: weight.sum(1))
