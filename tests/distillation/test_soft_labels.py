"""Losses between outputs, against their definitions in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltpl.distillation.labels import labels_of, nodes_of, right
from ltpl.distillation.soft_labels import (
    agreement,
    at_epoch,
    attention_distance,
    binary_soft_label_loss,
    feature_distance,
    logit_distance,
    soft_label_loss,
)


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return 4 * torch.randn(shape, dtype=torch.float64), 4 * torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
def test_divergence_of_classes_is_the_mean_over_rows(temperature: float) -> None:
    z, goal = pair(7, 5)
    q, p = ((x / temperature).softmax(1) for x in (z, goal))
    expected = (p * (p / q).log()).sum() / 7  # and not over classes too
    torch.testing.assert_close(soft_label_loss(z, goal, temperature), expected)
    assert float(soft_label_loss(z, z + 3.0, temperature)) == pytest.approx(0.0, abs=1e-12)


def test_the_gradient_keeps_its_size_when_the_square_of_the_temperature_is_there() -> None:
    z, goal = pair(9, 4)
    sizes = []
    for temperature in (10.0, 100.0):
        leaf = z.clone().requires_grad_()
        (temperature**2 * soft_label_loss(leaf, goal, temperature)).backward()
        assert leaf.grad is not None
        sizes.append(float(leaf.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)


def test_divergence_of_yes_or_no_is_that_of_two_classes() -> None:
    z, goal = pair(11)
    two = [torch.stack([torch.zeros_like(x), x], 1) for x in (z, goal)]
    expected = soft_label_loss(two[0], two[1], 2.0)
    torch.testing.assert_close(binary_soft_label_loss(z, goal, 2.0), expected)


def test_half_precision_is_computed_in_single() -> None:
    z, goal = (x.bfloat16() for x in pair(6, 3))
    for loss in (soft_label_loss(z, goal, 2.0), logit_distance(z, goal)):
        assert loss.dtype == torch.float32
    assert soft_label_loss(z, goal, 2.0) == soft_label_loss(z.float(), goal.float(), 2.0)


def test_features_and_attention() -> None:
    ours, theirs = pair(3, 4, 5, 6)
    torch.testing.assert_close(feature_distance(ours, theirs), ((ours - theirs) ** 2).mean())
    wide = torch.cat([theirs, theirs], 1)  # the same map over more channels
    assert float(attention_distance(theirs, wide)) == pytest.approx(0.0, abs=1e-12)
    assert float(attention_distance(theirs, 10 * theirs)) == pytest.approx(0.0, abs=1e-12)
    maps = [x.pow(2).sum(1).flatten(1) for x in (ours, theirs)]
    unit = [m / m.norm(dim=1, keepdim=True) for m in maps]
    torch.testing.assert_close(attention_distance(ours, theirs), (unit[0] - unit[1]).pow(2).mean())


def test_lines_through_points() -> None:
    points = {10: 1.0, 0: 0.0, 20: 0.5}
    values = [at_epoch(points, epoch) for epoch in (0, 5, 10, 15, 20, 99)]
    assert values == [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    assert at_epoch({5: 0.3}, 0) == at_epoch(0.3, 7) == 0.3


def test_agreement_and_hits() -> None:
    z = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 4.0]])
    goal = torch.tensor([[2.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert float(agreement(z, goal, binary=False)) == pytest.approx(2 / 3)
    assert float(agreement(z - 1.5, goal - 1.5, binary=True)) == pytest.approx(4 / 6)
    labels = torch.tensor([0, -100, 0])
    hits = right(goal, labels, None, binary=False)
    assert hits is not None
    assert (int(hits[0]), int(hits[1])) == (1, 2)
    hits = right(goal, labels, torch.tensor([0]), binary=False)
    assert hits is not None
    assert (int(hits[0]), int(hits[1])) == (1, 1)
    assert right(goal, torch.zeros(4), None, binary=False) is None
    assert right(goal, torch.rand(3), None, binary=False) is None  # no class numbers


def test_labels_are_found_in_every_kind_of_batch() -> None:
    x, y = torch.rand(3, 2), torch.arange(3)
    for batch in ((x, y), [x, y], {"x": x, "labels": y}, {"pixel_values": x, "target": y}):
        assert labels_of(batch) is y
    assert labels_of(x) is labels_of((x,)) is labels_of({"x": x}) is None


def test_of_a_sampled_graph_the_nodes_that_were_asked_for_count() -> None:
    data = pytest.importorskip("torch_geometric.data").Data
    mask = torch.tensor([True, False, True, True])
    whole = data(x=torch.rand(4, 1), train_mask=mask)
    found = nodes_of(whole, "train")
    assert found is not None
    assert found.tolist() == [0, 2, 3]
    part = data(x=torch.rand(4, 1), train_mask=mask, n_id=torch.arange(4), batch_size=2)
    found = nodes_of(part, "train")
    assert found is not None
    assert found.tolist() == [0, 1]
    assert nodes_of(whole, "val") is None
