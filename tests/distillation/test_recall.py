"""Answers that are kept: found by what they answer, never by where it stood."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ltpl.distillation.capture import Call
from ltpl.distillation.recall import SameSamples, SameTensors, fingerprints, identity
from ltpl.distillation.teacher import Heard


def call(*args: Any) -> Call:
    return Call(args, {}, None, None, {})


class Teacher:
    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, given: Call) -> Heard:
        x: Tensor = given.args[0]
        self.asked.append(len(x))
        return Heard(2 * x.to_dense()[:, :2], {})


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_every_bit_counts_and_its_place(kind: torch.dtype) -> None:
    x = torch.randint(-50, 50, (40, 3, 5)).to(kind)
    prints = fingerprints(x)
    assert prints.shape == (40, 2)
    assert torch.equal(prints, fingerprints(x.clone()))
    assert torch.equal(prints.flip(0), fingerprints(x.flip(0)))
    assert len({tuple(row) for row in prints.tolist()}) == 40
    for change in (x.flip(2), x.roll(1, 1), x.neg()):
        assert not (fingerprints(change) == prints).all(1).any()
    one = x.clone()
    one[7, 2, 4] += 1
    assert (fingerprints(one) == prints).all(1).logical_not().nonzero().flatten().tolist() == [7]


def test_flags_have_fingerprints_too() -> None:
    x = torch.eye(9) > 0
    assert len({tuple(row) for row in fingerprints(x).tolist()}) == 9


def test_samples_are_answered_once_in_any_company() -> None:
    teacher = Teacher()
    recall, x = SameSamples(teacher, None), torch.randn(30, 4)
    for order in (torch.arange(30), torch.randperm(30), torch.randperm(30)):
        for part in order.split(7):
            assert torch.equal(recall(call(x[part])).output, 2 * x[part][:, :2])
        recall.ends_epoch()
    assert sum(teacher.asked) == 30 + 3  # the first batch of 7 is looked at in halves


def test_the_same_sample_twice_in_a_batch() -> None:
    recall, x = SameSamples(Teacher(), None), torch.randn(3, 4)
    twice = x[[0, 1, 0, 2, 1]]
    assert torch.equal(recall(call(twice)).output, 2 * twice[:, :2])
    assert torch.equal(recall(call(x)).output, 2 * x[:, :2])


def test_what_is_no_batch_of_samples_is_refused() -> None:
    recall, x = SameSamples(Teacher(), None), torch.randn(3, 4)
    for given in ((x, x), (x[0],), (x.to_sparse(),)):
        with pytest.raises(ValueError, match="needs a network that is called with one tensor"):
            recall(call(*given))
    few = SameSamples(lambda given: Heard(given.args[0][:1], {}), None)
    with pytest.raises(ValueError, match="gives 1 outputs for 3 samples"):
        few(call(x))


def csr() -> Tensor:
    return torch.eye(4).to_sparse_csr()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_a_tensor_is_itself_until_it_is_changed() -> None:
    dense, rows, places = torch.rand(3, 2), csr(), torch.eye(4).to_sparse()
    for tensor, values in ((dense, dense), (rows, rows.values()), (places, places._values())):
        before = identity(tensor)
        assert before == identity(tensor)
        assert before != identity(tensor.clone())
        values.mul_(2)
        assert before != identity(tensor)


def test_tensors_of_inference_mode_are_never_the_same() -> None:
    with torch.inference_mode():
        x = torch.rand(2)
    assert identity(x) != identity(x)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_the_last_answer_is_kept_while_nothing_changes() -> None:
    teacher = Teacher()
    recall, x, edges = SameTensors(teacher), csr(), torch.tensor([[0, 1], [1, 0]])
    for _ in range(3):
        recall(call(x, edges))
    assert len(teacher.asked) == 1
    edges[0, 0] = 1
    recall(call(x, edges))
    recall(call(x.clone(), edges))
    assert len(teacher.asked) == 3
