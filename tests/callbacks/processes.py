"""Scripts that train in several processes, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run(name: str, folder: Path, *arguments: str) -> str:
    """Run a script beside this file; it writes what it found into `folder`. Return what it says."""
    script = Path(__file__).with_name(name)
    done = subprocess.run(
        [sys.executable, str(script), str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
