"""A network that several processes train gets smaller on all of them."""

from __future__ import annotations

from pathlib import Path

import processes
import pytest
import torch
from compact_two_processes import network
from shrink import size

import ltpl


@pytest.mark.slow
def test_two_processes_train_on_as_with_the_masked_network(tmp_path: Path) -> None:
    processes.run("compact_two_processes.py", tmp_path)
    kinds = ("masked", "small", "never wrapped")
    masked, small, parted = [[torch.load(tmp_path / f"{k}{r}.pt") for r in (0, 1)] for k in kinds]
    for one, other in zip(masked, small, strict=True):
        for losses in ("steps", "validated"):
            assert len(one[losses]) == len(other[losses]) > 0
            pairs = zip(one[losses], other[losses], strict=True)
            assert max(abs(a - b) for a, b in pairs) < 1e-8
        assert other["size"] < 0.8 * one["size"]
    for name, value in small[0]["weights"].items():
        assert torch.equal(value, small[1]["weights"][name])
    assert size(ltpl.load(tmp_path, network())) == small[0]["size"]
    weights = parted[0]["weights"]  # without being wrapped anew
    assert any(not torch.equal(v, parted[1]["weights"][n]) for n, v in weights.items())
