import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from ltpl.masks.threshold import SMALL, Scores, keep_highest

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SIZES = {
    "one weight": [1],
    "small": [700, 1, 2300],
    "at the sampling cut": [SMALL - 10, 10],
    "just above the cut": [SMALL - 10, 11],
    "above the cut": [30_000, 7, 25_000],
}
PIECES = [64, 2**20 + 777, 5000]
VALUES = {
    "normal": torch.randn,
    "constant": lambda n: torch.full((n,), 0.25),
    "sign constant": lambda n: torch.where(torch.rand(n) < 0.5, -0.5, 0.5),
    "few values": lambda n: torch.randint(-3, 4, (n,)) / 4,
    "one peak": lambda n: torch.randn(n) * (torch.rand(n) < 0.01),
    "sorted": lambda n: torch.arange(n, dtype=torch.float64) / n,
}


def by_full_sort(layers):
    """Sort everything, stably, highest first; of equal scores the first position comes first.

    Return a function from how many to keep to the masks.
    """
    scores = [x.score(*(i.to(x.dtype) for i in x.inputs)) for x in layers]
    dead = [x.alive is not None and ~x.alive for x in layers]
    scores = [
        s if d is False else s.masked_fill(d, -math.inf) for s, d in zip(scores, dead, strict=True)
    ]
    order = torch.cat(scores).sort(descending=True, stable=True).indices

    def kept(keep):
        mask = torch.zeros(len(order), dtype=torch.bool)
        mask[order[:keep]] = True
        return list(mask.split([x.total for x in layers]))

    return kept


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("sizes", SIZES)
def test_the_choice_is_that_of_a_stable_sort(sizes, values, dtype):
    tensors = [VALUES[values](n).to(dtype) for n in SIZES[sizes]]
    ranked = torch.float64 if dtype == torch.float64 else torch.float32
    layers = [Scores(str(i), (t,), torch.abs, dtype=ranked) for i, t in enumerate(tensors)]
    n = sum(SIZES[sizes])
    expected = by_full_sort(layers)
    for keep in {0, 1, n // 50, n // 3, n - 1, n}:
        assert_same(keep_highest(layers, keep), expected(keep))


@pytest.mark.parametrize("alive", [None, 0.6])
@pytest.mark.parametrize("values", VALUES)
def test_layers_of_several_pieces_are_ranked_like_small_ones(values, alive):
    layers = [
        Scores(
            str(n),
            (VALUES[values](n).bfloat16(),),
            torch.abs,
            None if alive is None else torch.rand(n) < alive,
        )
        for n in PIECES
    ]
    live = sum(x.live for x in layers)
    expected = by_full_sort(layers)
    for keep in (live // 5, live - 1):
        assert_same(keep_highest(layers, keep), expected(keep))


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("sizes", SIZES)
def test_dead_weights_never_come_back(sizes, values):
    layers = []
    for i, n in enumerate(SIZES[sizes]):
        weight = VALUES[values](n).to(torch.float32)
        alive = torch.rand(n) < (0.02, 0.7, 0.98)[i]
        weight[~alive] *= 100  # the dead would win, were they asked
        layers.append(Scores(str(i), (weight,), torch.abs, alive))
    live = sum(x.live for x in layers)
    expected = by_full_sort(layers)
    for keep in {k for k in (1, live // 2, live - 1, live) if 0 <= k <= live}:
        found = keep_highest(layers, keep)
        assert sum(int(m.count_nonzero()) for m in found) == keep
        assert not any((m & ~x.alive).any() for m, x in zip(found, layers, strict=True))
        assert_same(found, expected(keep))


def test_a_layer_whose_weights_all_died_stays_empty():
    n = 2 * SMALL
    layers = [
        Scores("dead", (torch.ones(n),), torch.abs, torch.zeros(n, dtype=torch.bool)),
        Scores("live", (torch.zeros(n),), torch.abs),
    ]
    dead, live = keep_highest(layers, n)
    assert not dead.any()
    assert live.all()


def test_of_equal_scores_the_first_positions_stay_across_layers():
    sizes = [SMALL, 5, 2**20 + 9]
    layers = [Scores(str(n), (torch.ones(n),), torch.abs) for n in sizes]
    for keep in (3, SMALL, SMALL + 2, SMALL + 2**20 + 7):
        flat = torch.cat(keep_highest(layers, keep))
        assert flat[:keep].all()
        assert not flat[keep:].any()


def test_scores_of_two_inputs_are_computed_in_pieces():
    final, first = torch.randn(2, 2**20 + 5)
    layer = Scores("w", (final, first), lambda f, i: (f - i).abs())
    assert_same(keep_highest([layer], 12_345), by_full_sort([layer])(12_345))


def test_the_result_is_the_same_on_every_call_and_global_random_state_is_untouched():
    layer = Scores("w", (torch.randn(300_000).bfloat16(),), torch.abs)
    before = torch.get_rng_state()
    once = keep_highest([layer], 100_000)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert_same(keep_highest([layer], 100_000), once)


def test_a_million_bfloat16_weights_hit_the_target_exactly():
    """Pitfall: a million bf16 weights have some two thousand magnitudes; a cut cannot hit k."""
    weight = torch.randn(1_000_000).bfloat16()
    assert weight.abs().unique().numel() < 3000
    layer = Scores("w", (weight,), torch.abs)
    for keep in (1, 216_716, 500_000, 999_999):
        assert int(keep_highest([layer], keep)[0].count_nonzero()) == keep


@pytest.mark.parametrize("keep", [216_715, 216_716, 216_717])
def test_exactly_the_number_asked_for_is_kept_not_one_less(keep):
    """Pitfall: a published pruner keeps 216,715 when asked for 216,716."""
    sizes = [270_000, 896]
    layers = [Scores(str(n), (torch.randn(n),), torch.abs) for n in sizes]
    assert sum(int(m.count_nonzero()) for m in keep_highest(layers, keep)) == keep


@pytest.mark.parametrize("values", ["normal", "few values"])
def test_counts_are_exact_beyond_what_fp32_can_count(values):
    """Pitfall: quantiles refuse more than 2^24 values, and fp32 cannot count them."""
    n = 2**24 + 4321
    weight = VALUES[values](n).float()
    keep = 2**24 + 1
    (mask,) = keep_highest([Scores("w", (weight,), torch.abs)], keep)
    assert int(mask.count_nonzero()) == keep
    assert weight[mask].abs().min() >= weight[~mask].abs().max()


@pytest.mark.slow
def test_counts_are_exact_beyond_2_to_the_31_weights():
    """Pitfall: many operations refuse 2^31 elements. The weights here share one element."""
    n = 2**31 + 11
    layers = [
        Scores("huge", (torch.zeros(1, dtype=torch.bfloat16).expand(n),), torch.abs),
        Scores("small", (torch.rand(100) + 0.1,), torch.abs),
    ]
    keep = 2**31 + 3
    huge, small = keep_highest(layers, keep)
    assert small.all()
    assert bool(huge[: keep - 100].all())
    assert not bool(huge[keep - 100 :].any())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [10, SMALL + 1, 2**20 + 2])
def test_scores_that_are_not_finite_are_refused_by_name(bad, n):
    weight = torch.randn(n)
    weight[-1] = bad
    with pytest.raises(ValueError, match=r"'net\.fc\.weight'.*NaN or infinite"):
        keep_highest([Scores("net.fc.weight", (weight,), torch.positive)], n // 2)


MEASURE = """
import torch
from torch import nn
from ltpl.masks import prune

def peak():
    # not ru_maxrss: it survives exec, so a large parent would hide what happens here
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

def fill(weight):
    {fill}

with torch.no_grad():
    small = nn.Linear(2000, 2000, bias=False, dtype=torch.{dtype})
    fill(small.weight)
    prune(small, {amount})
    model = nn.utils.skip_init(nn.Linear, 7000, 7000, bias=False, dtype=torch.{dtype})
    fill(model.weight)
before = peak()
mask = prune(model, {amount})
print((peak() - before) / (model.weight.numel() * model.weight.element_size()))
assert mask.kept == mask.total - round({amount} * mask.total)
"""
FILLS = {
    "normal": "weight.normal_()",
    "two values": "weight.fill_(0.5); weight[::2, ::3] = -1.0",
    "constant": "weight.fill_(0.5)",
    "one peak": "weight.zero_(); weight[:90].normal_()",
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("amount", [0.2, 0.99])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fill", FILLS)
def test_extra_memory_stays_below_twice_the_weights(fill, dtype, amount):
    """Pitfall: sorting all weights, or copying them, runs out of memory."""
    code = MEASURE.format(fill=FILLS[fill], dtype=dtype, amount=amount)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2


def test_pieces_cover_every_position_once():
    layer = Scores("w", (torch.randn(2**21 + 3),), torch.abs)
    ends = [(where.start, where.stop) for where, _ in layer.pieces()]
    assert ends[0][0] == 0
    assert ends[-1][1] == layer.total
    assert all(one[1] == other[0] for one, other in pairwise(ends))


@pytest.mark.parametrize("values", [2, 5, 300, 10**9])
def test_a_bracket_that_misses_is_widened_until_it_holds(
    values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltpl.masks.threshold.SPREAD", 0.01)
    weight = torch.randint(values, (100_000,)).float()
    order = weight.sort(descending=True, stable=True).indices
    for keep in torch.randint(1, 100_000, (12,)).tolist():
        expected = torch.zeros(100_000, dtype=torch.bool)
        expected[order[:keep]] = True
        assert torch.equal(keep_highest([Scores("w", (weight,), torch.abs)], keep)[0], expected)
