"""Processes killed at random moments; what comes out has to be the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_no_bit(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, "-m", "tests.rounds.killing", "--kills", str(kills)]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=3000,
    )
    assert done.stdout.endswith(f"{kills} kills in all: 0 differ\n"), done.stdout + done.stderr
    assert done.returncode == 0
