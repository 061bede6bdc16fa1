from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from ltpl.tickets import Snapshot
from ltpl.tickets.path import (
    COLUMNS,
    FILE,
    Point,
    evenly,
    interpolated,
    read_path,
    rise,
    write_path,
)


def some(**buffers: torch.Tensor) -> Snapshot:
    keep = torch.tensor([True, False, True])
    weights = {"a": torch.randn(4, 3) * keep, "b": torch.randn(2, dtype=torch.bfloat16)}
    return Snapshot("end", weights, {"mean": torch.randn(3), **buffers})


def test_the_ends_are_the_networks_themselves_and_the_middle_is_their_average() -> None:
    one, other = some(), some()
    for alpha, network in ((0, one), (1, other)):
        weights, buffers = interpolated(one, other, alpha)
        assert weights.keys() == one.weights.keys()
        assert all(torch.equal(weights[n], network.weights[n]) for n in weights)
        assert torch.equal(buffers["mean"], network.buffers["mean"])
    weights, buffers = interpolated(one, other, 0.25)
    by_hand = 0.75 * one.weights["a"] + 0.25 * other.weights["a"]
    torch.testing.assert_close(weights["a"], by_hand)
    torch.testing.assert_close(
        buffers["mean"], 0.75 * one.buffers["mean"] + 0.25 * other.buffers["mean"]
    )
    assert not weights["a"][:, 1].count_nonzero()
    assert weights["b"].dtype == torch.bfloat16


def test_between_a_network_and_itself_there_is_only_itself() -> None:
    one = some()
    for alpha in evenly(7):
        weights, _ = interpolated(one, one, alpha)
        assert all(torch.equal(weights[n], one.weights[n]) for n in weights)


def test_counts_are_those_of_the_nearer_end_and_no_alias() -> None:
    one, other = some(count=torch.tensor(3)), some(count=torch.tensor(8))
    found = [int(interpolated(one, other, alpha)[1]["count"]) for alpha in (0, 0.4, 0.6, 1)]
    assert found == [3, 3, 8, 8]
    interpolated(one, other, 0)[1]["count"].add_(1)
    assert one.buffers["count"] == 3


def test_networks_that_differ_in_kind_have_no_path() -> None:
    one = some()
    for change, said in (
        ({"a": torch.randn(4, 2)}, r"'a' is \[4, 3\] of torch.float32 in the first and \[4, 2\]"),
        ({"a": one.weights["a"].double()}, r"'a' is .*float64 in the second"),
        ({"c": torch.randn(1)}, "'c' is missing in the first"),
    ):
        other = Snapshot("end", {**one.weights, **change}, one.buffers)
        with pytest.raises(ValueError, match=f"no path between these networks: {said}"):
            interpolated(one, other, 0.5)
    with pytest.raises(ValueError, match=r"'mean' is .* and missing in the second"):
        interpolated(one, Snapshot("end", one.weights, {}), 0.5)


def test_the_places_are_even_with_both_ends() -> None:
    assert evenly(5) == [0, 0.25, 0.5, 0.75, 1]
    assert len(evenly(31)) == 31
    with pytest.raises(ValueError, match="points=1: at least 2"):
        evenly(1)


def test_a_path_comes_back_as_it_was(tmp_path: Path) -> None:
    points = [Point(alpha, *(random.random() for _ in range(8))) for alpha in evenly(4)]
    points[1] = Point(points[1].alpha, 0.5, None, 0.25, math.inf)
    write_path(tmp_path, points)
    assert read_path(tmp_path) == points
    first, *_ = (tmp_path / FILE).read_text().split("\n")
    assert first == (
        "alpha,train_error,train_loss,val_error,val_loss,"
        "raw_train_error,raw_train_loss,raw_val_error,raw_val_loss"
    )


HEADER = ",".join(COLUMNS)
NONE = "," * 8


@pytest.mark.parametrize(
    "content",
    [
        "",
        HEADER,
        f"{HEADER}\n0{NONE}",
        f"alpha\n0{NONE}\n1{NONE}",
        f"{HEADER}\n0{NONE}\n1,x{NONE[1:]}",
        f"{HEADER}\n0{NONE}\n1,1e300{NONE[1:]}",
        f"{HEADER}\n0{NONE}\n2{NONE}",
        f"{HEADER}\n0{NONE}\nnan{NONE}",
        f"{HEADER}\n0{NONE}\n1{NONE},1",
        f"{HEADER}\n0{NONE}\n{NONE}",
    ],
)
def test_what_is_no_path_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=r"path\.csv is no path between two networks"):
        read_path(tmp_path)


def test_a_path_that_was_not_measured_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_path(tmp_path)


def test_instability_is_the_rise_above_the_mean_of_the_ends() -> None:
    assert rise({1.0: 0.10, 0.5: 0.60, 0.0: 0.00}) == pytest.approx(0.55)  # in any order
    assert rise({0.0: 0.20, 0.5: 0.15, 1.0: 0.30}) == pytest.approx(0.05)  # ends are on the path
