from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor

from ltpl.models.csr import FeatureDropout, Memory, compressed, csr_matrix, times, turned


def sparse(rows: int = 12, columns: int = 20, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(rows, columns, dtype=dtype) * (torch.rand(rows, columns) > 0.6)


def both_ways(dense: Tensor) -> tuple[Tensor, Tensor]:
    return compressed(dense.to_sparse()), compressed(dense.t().to_sparse())


def test_the_product_and_its_gradients_are_those_of_the_dense_one() -> None:
    matrix = sparse(dtype=torch.float64)
    forth, back = both_ways(matrix)
    weight = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(times(forth, weight, back), matrix @ weight)
    assert torch.autograd.gradcheck(lambda w: times(forth, w, back), weight)
    # criteria that follow the curvature differentiate the gradient
    assert torch.autograd.gradgradcheck(lambda w: times(forth, w, back).pow(3), weight)


def test_the_gradient_may_be_expanded() -> None:
    matrix = sparse()
    forth, back = both_ways(matrix)
    weight = torch.randn(20, 3, requires_grad=True)
    times(forth, weight, back).sum().backward()
    torch.testing.assert_close(weight.grad, matrix.t() @ torch.ones(12, 3))


def test_the_product_takes_the_wider_of_two_types_also_under_autocast() -> None:
    matrix = sparse()
    forth, back = both_ways(matrix)
    weight = torch.randn(20, 3, dtype=torch.bfloat16)
    expected = matrix @ weight.float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(times(forth, weight, back), expected)
    wide = torch.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(times(forth, wide, back), matrix.double() @ wide)


@pytest.mark.parametrize("empty", ["row", "column", "everything"])
def test_a_turned_matrix_has_the_same_values(empty: str) -> None:
    dense = sparse()
    dense[{"row": 3, "column": slice(None), "everything": slice(None)}[empty]] *= (
        torch.arange(20) != 5 if empty == "column" else 0
    )
    matrix = compressed(dense.to_sparse())
    crow, col, back_crow, back_col, order = turned(matrix.crow_indices(), matrix.col_indices(), 20)
    values = matrix.values()
    assert torch.equal(csr_matrix(crow, col, values, (12, 20)).to_dense(), dense)
    assert torch.equal(
        csr_matrix(back_crow, back_col, values[order], (20, 12)).to_dense(), dense.t()
    )
    assert back_col.dtype == torch.int32


def test_equal_places_are_added_up() -> None:
    twice = torch.sparse_coo_tensor([[1, 1], [0, 0]], [2.0, 3.0], (2, 2), check_invariants=True)
    assert compressed(twice).to_dense().tolist() == [[0, 0], [5, 0]]


@pytest.mark.parametrize("p", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("layout", ["dense", "csr", "coo"])
def test_dropout_drops_a_share_and_scales_up_the_rest(p: float, layout: str) -> None:
    dense = sparse(200, 300)
    x = {"dense": dense, "coo": dense.to_sparse(), "csr": compressed(dense.to_sparse())}[layout]
    left = FeatureDropout(p)(x)
    left = left.to_dense() if layout != "dense" else left
    kept = left != 0
    torch.testing.assert_close(left[kept], dense[kept] / (1 - p))
    stored = int(dense.count_nonzero())
    error = 5 * (p * (1 - p) / stored) ** 0.5
    assert abs(int(kept.sum()) / stored - (1 - p)) < error
    for dim in (0, 1):  # no row and no column is favoured
        shares = kept.sum(dim) / dense.count_nonzero(dim)
        assert shares.std() < 1.5 * (p * (1 - p) / (stored / len(shares))) ** 0.5


def test_dropout_of_sparse_features_draws_for_stored_values_only() -> None:
    features = compressed(sparse(50, 60).to_sparse())
    before = torch.get_rng_state()
    FeatureDropout(0.5)(features)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.rand(features.values().shape)
    assert torch.equal(torch.get_rng_state(), after)


def test_dropout_draws_anew_each_time_and_nothing_in_evaluation() -> None:
    features = compressed(sparse(50, 60).to_sparse())
    drop = FeatureDropout(0.5)
    first, second = drop(features), drop(features)
    assert not torch.equal(first.values(), second.values())
    assert drop.eval()(features) is features
    assert FeatureDropout(0.0)(features) is features


def test_a_memory_forgets_what_changed() -> None:
    calls = []

    def total(*tensors: Tensor | None, scale: int = 1) -> float:
        calls.append(tensors)
        return scale * sum(float(t.sum()) for t in tensors if t is not None)

    memory, edges = Memory(), torch.arange(6)
    assert memory(total, edges, None) == memory(total, edges, None) == 15
    assert len(calls) == 1
    edges[0] = 10
    assert memory(total, edges, None) == 25  # changed in place
    assert memory(total, edges[:3], None) == 13  # the same memory, fewer of it
    assert memory(total, edges[::2], None) == 16  # another part of it
    assert memory(total, edges.clone(), None) == 25
    assert memory(total, edges, edges) == 50
    assert memory(total, edges, edges, scale=2) == 100
    assert len(calls) == 7


def test_a_memory_keeps_the_tensors_so_that_none_takes_their_place() -> None:
    memory = Memory()
    for value in range(50):  # a freed tensor is often followed by another at the same address
        assert memory(Tensor.tolist, torch.full((1000,), value)) == [value] * 1000


def test_a_memory_does_not_trust_tensors_of_inference_mode() -> None:
    memory = Memory()
    with torch.inference_mode():
        edges = torch.arange(4)
        first = memory(torch.sum, edges)
        edges += 1
        assert (int(first), int(memory(torch.sum, edges))) == (6, 10)


def test_what_is_remembered_in_inference_mode_is_an_ordinary_tensor() -> None:
    memory, edges = Memory(), torch.arange(4.0)
    with torch.inference_mode():
        assert not memory(torch.square, edges).is_inference()


def test_copies_of_a_memory_start_empty_and_stay_shared() -> None:
    memory = Memory()
    memory(torch.sum, torch.arange(4))
    copies = copy.deepcopy([memory, memory])
    assert copies[0] is copies[1] is not memory
    assert copies[0]._answer is None
    assert pickle.loads(pickle.dumps(memory))._tensors == ()


def test_no_warning_of_torch_comes_through() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        FeatureDropout(0.5)(compressed(sparse().to_sparse()))
    assert not told
