from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from ltpl.tickets.files import load_state, save_state

STATE = {
    "state": {0: {"step": torch.tensor(3.0), "moment": torch.randn(2, 3)}, 1: {}},
    "groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1], "flag": None, "name": "a"}],
    "milestones": Counter({30: 1, 60: 2}),
    "best": float("inf"),
    "half": torch.randn(4).bfloat16(),
    "scalar": torch.tensor(7),
    "empty": torch.empty(0, 3),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def test_nested_state_comes_back_with_its_types(tmp_path: Path) -> None:
    save_state(tmp_path / "s", STATE, "kind/1")
    back = load_state(tmp_path / "s", "kind/1")
    assert same(STATE, back)
    assert isinstance(back["milestones"], Counter)
    assert isinstance(back["groups"][0]["betas"], tuple)


def test_what_cannot_be_stored_is_named_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"sched\.0\.fn is a function"):
        save_state(tmp_path / "s", {"sched": [{"fn": same}]}, "kind")
    assert not list(tmp_path.iterdir())


def test_files_of_another_kind_cut_short_changed_or_missing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(FileNotFoundError, match="No kind/1 at"):
        load_state(path, "kind/1")
    save_state(path, STATE, "kind/1")
    with pytest.raises(ValueError, match="is no kind/2"):
        load_state(path, "kind/2")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 5])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_state(path, "kind/1")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="its digest differs"):
        load_state(path, "kind/1")


KILLED = """
import os, signal, sys, torch
from ltpl.masks import files
from ltpl.tickets.files import save_state
os.fsync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
save_state(sys.argv[1], {"weights": torch.zeros(1000)}, "kind")
"""


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    save_state(path, {"weights": torch.ones(1000)}, "kind")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], check=False, env={**os.environ}, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    assert load_state(path, "kind")["weights"].sum() == 1000
