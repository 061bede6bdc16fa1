"""One process at a time works in a folder."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder while the block runs; a killed one keeps none out.

    Raises:
        ValueError: If one is at work there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            who = lock.read().strip()
            raise ValueError(
                f"Another process{f' ({who})' if who else ''} is at work in {folder}; wait for it."
            ) from None
        except OSError:  # a file system without locks
            pass
        lock.truncate(0)
        lock.write(f"PID {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield
