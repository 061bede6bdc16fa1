"""Start the project beside this file as a user does, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PROJECT = Path(__file__).with_name("spread.py")
GLOBAL = 12  # samples of a batch, in all processes together
ROUNDS = ["--levels=2", "--trainer.max_epochs=3", "--trainer.accelerator=cpu", "--report=false"]


def command(run: Path, processes: int, *options: str) -> list[str]:
    several = ["--trainer.strategy=ddp", f"--trainer.devices={processes}"] if processes > 1 else []
    batch = f"--data.batch_size={GLOBAL // processes}"
    return [str(PROJECT), "rounds", f"--run={run}", *ROUNDS, batch, *several, *options]


def started(
    arguments: Sequence[str], first: Callable[[], object] | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Start Python; `first` is called in the new process before."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        preexec_fn=first,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """Return what it said; it must end in time, with this code and without a stack trace."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out + err


def wait_for(run: Path, file: str, processes: Sequence[subprocess.Popen[str]]) -> None:
    """Wait until a round has begun to train."""
    for _ in range(2400):
        if (run / file).is_file():
            time.sleep(0.5)
            return
        codes = [process.poll() for process in processes]
        assert codes == [None] * len(codes), [p.communicate()[1] for p in processes]
        time.sleep(0.05)
    raise AssertionError(f"{file} did not come")
