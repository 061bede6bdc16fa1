"""FSDP2: two processes that hold a part of each parameter arrive where one does, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from sharded import CASES, fit, network

from ltpl.masks import prune

pytestmark = pytest.mark.slow  # two processes, each with many trainings


@pytest.fixture(scope="module")
def both(tmp_path_factory: Any) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("both")
    processes.run("sharded_two_processes.py", folder)
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def assert_same(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_sharded_training_is_that_of_one_process(
    both: list[dict[str, Any]], tmp_path: Path, name: str
) -> None:
    _, one = fit(tmp_path, CASES[name])
    for rank in both:
        assert rank[name].pop("history") == one["history"]
        assert_same(rank[name], {k: v for k, v in one.items() if k != "history"})
    assert sum(int(keep.sum()) for keep in one["mask"].values()) > 0
    assert any(not keep.all() for keep in one["mask"].values())


@pytest.mark.parametrize("full", [True, False])
def test_a_checkpoint_of_either_kind_resumes_with_mask_and_momenta(
    both: list[dict[str, Any]], full: bool
) -> None:
    for rank in both:
        whole, gone_on = rank["restored"], rank[f"full_{full}"]
        for key in ("state", "slots", "mask"):
            assert_same(gone_on[key], whole[key])


def test_what_runs_the_network_by_itself_is_refused_before_training(both: Any) -> None:
    for rank in both:
        for said in rank["refused"].values():
            assert "runs the network by itself" in said


def test_plain_torch_sees_whole_parameters_and_writes_to_the_sharded_ones(both: Any) -> None:
    net = network()
    mask = prune(net, 0.5)
    mask.apply_(net)
    for rank in both:
        plain = rank["plain"]
        assert_same(plain["mask"], dict(mask))
        weights = {n: p.detach() for n, p in net.named_parameters()}
        assert_same(plain["weights"], weights)
        assert_same(plain["snapshot"], weights)


def test_flattened_parameters_are_refused_by_name(both: Any) -> None:
    for said in both[0]["flattened"]:
        assert "flattened by FullyShardedDataParallel" in said
