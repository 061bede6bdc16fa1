import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import default_collate

from ltpl.masks import prune
from ltpl.masks.saliency import grasp, snip, synflow
from ltpl.masks.select import prunable


def loss(model, batch):
    x, y = batch
    return cross_entropy(model(x), y)


def data(count=3, inputs=4, classes=3, dtype=torch.float64):
    return [
        (torch.randn(8, inputs, dtype=dtype), torch.randint(0, classes, (8,))) for _ in range(count)
    ]


def small(dtype=torch.float64):
    """BatchNorm in training mode: what is computed must be what training sees."""
    return nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3, bias=False)
    ).to(dtype)


def gradients_by_hand(model, batches):
    """Backward on a copy, one batch after the other: gradients add up."""
    model = copy.deepcopy(model)
    for batch in batches:
        loss(model, batch).backward()
    return {name: p.grad for name, p in model.named_parameters() if name in prunable(model)}


def hessian_times(model, batches, vector):
    """Central differences of the gradient along a vector."""
    step, sides = 1e-5, []
    for sign in (1, -1):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in prunable(moved).items():
                parameter += sign * step * vector[name]
        sides.append(gradients_by_hand(moved, batches))
    return {name: (sides[0][name] - sides[1][name]) / (2 * step) for name in vector}


def test_snip_is_the_gradient_times_the_weight():
    model, batches = small(), data()
    scores = snip(model, prunable(model), batches, loss)
    by_hand = gradients_by_hand(model, batches)
    assert scores.keys() == by_hand.keys() == {"0.weight", "3.weight"}
    for name, weight in prunable(model).items():
        torch.testing.assert_close(scores[name], (by_hand[name] * weight.detach()).abs())


def test_grasp_is_the_weight_times_the_hessian_times_the_gradient():
    model, batches = small(), data()
    scores = grasp(model, prunable(model), iter(batches), loss)
    curved = hessian_times(model, batches, gradients_by_hand(model, batches))
    for name, weight in prunable(model).items():
        expected = weight.detach() * curved[name]
        torch.testing.assert_close(scores[name], expected, rtol=1e-4, atol=1e-7)


def test_gradients_are_reduced_where_they_are_added_up():
    """GraSP: the reduced gradient goes into the Hessian product, which is reduced too."""
    model, batches = small(), data()
    parameters, calls = prunable(model), []

    def twice(tensor):
        calls.append(tensor.shape)
        return 2 * tensor

    for score, factor, each in ((snip, 2, 1), (grasp, 4, 2)):
        calls.clear()
        alone = score(model, parameters, batches, loss)
        reduced = score(model, parameters, batches, loss, twice)
        assert calls == [p.shape for p in parameters.values()] * each  # not once a batch
        for name in parameters:
            torch.testing.assert_close(reduced[name], factor * alone[name])


def test_a_function_gets_the_reduction_if_it_asks_for_it():
    given = []

    def asks(model, parameters, reduce):
        given.append(reduce)
        return {n: p.abs() for n, p in parameters.items()}

    def has_its_own(model, parameters, reduce="mean"):
        given.append(reduce)
        return {n: p.abs() for n, p in parameters.items()}

    model, reduce = small(), torch.neg
    prune(model, 0.2, criterion=asks, reduce=reduce)
    prune(model, 0.2, criterion=asks)
    prune(model, 0.2, criterion=has_its_own, reduce=reduce)
    assert given[0] is reduce
    assert given[1](given) is given  # alone, everything is its own mean
    assert given[2] == "mean"


def test_synflow_is_the_sum_of_all_paths_through_a_connection():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    first, second = (model[i].weight.detach().double().abs() for i in (0, 2))
    scores = synflow(model, prunable(model), [(torch.randn(5, 3), None)])
    for j in range(4):
        for i in range(3):
            paths = 5 * first[j, i] * second[:, j].sum()  # a batch of five ones
            torch.testing.assert_close(scores["0.weight"][j, i], paths)
        for k in range(2):
            paths = 5 * first[j].sum() * second[k, j]
            torch.testing.assert_close(scores["2.weight"][k, j], paths)


def test_synflow_is_conserved_from_layer_to_layer():
    sizes = [30, 50, 20, 40, 10]
    linear = [nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]
    model = nn.Sequential(*(m for one in linear for m in (one, nn.ReLU())))
    scores = synflow(model, prunable(model), [torch.randn(2, 30)])
    sums = [float(s.sum()) for s in scores.values()]
    assert sums == pytest.approx([sums[0]] * 4, rel=1e-9)
    assert sums[0] > 0


def uneven():
    """One wide layer among narrow ones, where global magnitude collapses."""
    sizes = [20, 50, 50, 400, 5]
    linear = [nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]
    return nn.Sequential(*(m for one in linear for m in (one, nn.ReLU())))


def test_synflow_empties_no_layer_where_magnitude_does():
    """Pitfall: layers collapse under global pruning. SynFlow, iterated, never lets one go."""
    model = uneven()
    with pytest.warns(UserWarning, match=r"No weight is left in .*4\.weight"):
        magnitude = prune(model, 0.999, min_keep=0)
    mask = prune(model, 0.999, criterion="synflow", batches=[torch.rand(1, 20)], min_keep=0)
    assert mask.kept == magnitude.kept == mask.total - round(0.999 * mask.total)
    assert min(row.kept for row in mask.table()) > 0
    assert min(row.kept for row in magnitude.table()) == 0


def test_synflow_scores_what_is_left_after_each_of_its_steps():
    """Pitfall: a hundred steps that score the same dense network are one step."""
    model, batch = uneven(), torch.rand(1, 20)
    once = synflow(model, prunable(model), [batch])
    with pytest.warns(UserWarning, match="No weight is left"):
        one_step = prune(model, 0.99, criterion=lambda name: once[name], min_keep=0)
    assert prune(model, 0.99, criterion="synflow", batches=[batch]) != one_step


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_pruned_weights_count_as_zero_also_where_the_model_still_holds_them(criterion):
    model, batches = small(), data()
    mask = prune(model, 0.5, criterion="random", scope="layer")
    found = prune(model, 0.4, criterion=criterion, mask=mask, batches=batches, loss=loss)
    applied = copy.deepcopy(model)
    mask.apply_(applied)
    assert found == prune(applied, 0.4, criterion=criterion, mask=mask, batches=batches, loss=loss)
    assert (found & mask) == found


class Replacing(nn.Module):
    """Puts a new tensor in the place of a buffer, as running averages by hand do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + 1
        return x


def observed(model):
    names = [*model.named_parameters(), *model.named_buffers()]
    return (
        {name: (id(tensor), tensor.dtype, tensor.detach().clone()) for name, tensor in names},
        {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        {name: module.training for name, module in model.named_modules()},
        {name: p.requires_grad for name, p in model.named_parameters()},
        torch.get_rng_state(),
    )


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return one == other


def rich(dtype=torch.float32):
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), Replacing(), nn.Linear(6, 3)
    ).to(dtype)
    model[1].eval() if torch.rand(()) < 0.5 else model[2].eval()
    model[0].bias.requires_grad_(False)
    loss(model, data(1, dtype=dtype)[0]).backward()
    model[4].weight.grad = None
    return model


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_the_model_comes_back_bit_for_bit(criterion):
    """Pitfall: collecting scores changes BatchNorm statistics, modes and the random state."""
    model, batches = rich(), data(dtype=torch.float32)
    mask = prune(model, 0.3)
    before = observed(model)
    for previous in (None, mask):
        prune(model, 0.5, criterion=criterion, batches=batches, loss=loss, mask=previous)
        assert same(observed(model), before)


class Broken(RuntimeError):
    pass


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
@pytest.mark.parametrize("at", [1, 3])
def test_the_model_comes_back_bit_for_bit_when_the_loss_raises(criterion, at):
    model, batches = rich(), data(dtype=torch.float32)
    mask, calls = prune(model, 0.3), []

    def failing(model, batch):
        value = loss(model, batch)
        calls.append(torch.rand(()))
        if len(calls) == at:
            model.eval()
            raise Broken
        return value

    before = observed(model)
    with pytest.raises(Broken):
        prune(model, 0.5, criterion=criterion, batches=batches, loss=failing, mask=mask)
    assert same(observed(model), before)


def test_the_model_comes_back_bit_for_bit_when_synflow_raises():
    model, batch = rich(), torch.rand(2, 9)
    before = observed(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        prune(model, 0.5, criterion="synflow", batches=[batch])
    assert same(observed(model), before)


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_frozen_parameters_are_scored_when_asked_for(criterion):
    model, batches = small(), data()
    expected = prune(model, 0.5, criterion=criterion, batches=batches, loss=loss)
    model[0].requires_grad_(False)
    options = {"criterion": criterion, "batches": batches, "loss": loss}
    assert prune(model, 0.5, frozen=True, **options) == expected
    assert not model[0].weight.requires_grad
    assert list(prune(model, 0.5, **options)) == ["3.weight"]


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_a_compiled_model_gives_the_mask_of_the_plain_one(criterion):
    model, batches = small(), data()
    plain = prune(model, 0.5, criterion=criterion, batches=batches, loss=loss)
    compiled = torch.compile(model)
    assert prune(compiled, 0.5, criterion=criterion, batches=batches, loss=loss) == plain


def test_batches_may_come_from_a_generator_and_scores_follow_all_of_them():
    """Pitfall: scores of a single batch."""
    model, batches = small(), data(4)
    scores = prune(model, 0.5, criterion="snip", batches=iter(batches), loss=loss)
    assert scores == prune(model, 0.5, criterion="snip", batches=batches, loss=loss)
    whole = snip(model, prunable(model), batches, loss)
    first = snip(model, prunable(model), batches[:1], loss)
    assert not torch.allclose(whole["0.weight"], first["0.weight"])


def test_weights_that_the_loss_does_not_reach_score_zero():
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "idle": nn.Linear(4, 3)})
    given = dict(
        model=model,
        parameters=prunable(model),
        batches=data(2, dtype=torch.float32),
        loss=lambda m, batch: loss(m["used"], batch),
    )
    for score in (snip, grasp):
        scores = score(**given)
        assert not scores["idle.weight"].any()
        assert scores["used.weight"].any()


def test_what_a_criterion_needs_is_asked_for():
    model = small()
    with pytest.raises(ValueError, match=r"'snip' needs batches=\.\.\.; it was not given"):
        prune(model, 0.5, criterion="snip", loss=loss)
    with pytest.raises(ValueError, match=r"'snip' needs batches=\.\.\."):
        prune(model, 0.5, criterion="snip", loss=loss, batches=[])
    with pytest.raises(ValueError, match=r"'grasp' needs loss=\.\.\."):
        prune(model, 0.5, criterion="grasp", batches=data())
    with pytest.raises(ValueError, match=r"a tensor of floats; this batch starts with Tensor"):
        prune(model, 0.5, criterion="synflow", batches=[torch.ones(2, 4, dtype=torch.long)])


def test_synflow_takes_batches_as_loaders_collate_them():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    batch = default_collate([(torch.rand(2, 2), 1), (torch.rand(2, 2), 0)])
    forms = [batch, tuple(batch), batch[0], [[batch[0]], batch[1]]]
    masks = [prune(model, 0.5, criterion="synflow", batches=[form]) for form in forms]
    assert all(mask == masks[0] for mask in masks)


def test_synflow_counts_in_float64_where_fp32_overflows():
    layers = [nn.Linear(64, 64, bias=False) for _ in range(30)]
    for one in layers:
        nn.init.normal_(one.weight, std=1.0)
    model = nn.Sequential(*layers)
    dense = nn.Sequential(*copy.deepcopy(layers))
    for one in dense:
        one.weight.data.abs_()
    assert not torch.isfinite(dense(torch.ones(1, 64))).all()
    mask = prune(model, 0.5, criterion="synflow", batches=[torch.ones(1, 64)])
    assert mask.kept == mask.total // 2
