"""Processes that train together: where one is gone, none of them waits for it for ever."""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from subprocess import Popen

EVERY = 0.2  # seconds between two looks
GRACE = 5.0  # seconds in which a process that failed by itself may say so
_GONE = re.compile(r"gloo|NCCL|TCPStore|Broken pipe|[Cc]onnection")


def watch(children: Sequence[Popen[bytes]]) -> None:
    """Look after the processes that this one has started, or after the one that started it.

    Args:
        children: Processes that were started here.
    """
    if children:
        atexit.register(_kill, children)
        _in_background(lambda: _look_after(children))
    elif os.environ.get("LOCAL_RANK", "0") != "0":
        parent = os.getppid()
        _in_background(lambda: _stay_with(parent))


def is_of_a_lost_process(error: BaseException) -> bool:
    """Whether an error says that another process no longer answers."""
    return isinstance(error, RuntimeError) and _GONE.search(str(error)) is not None


def _look_after(children: Sequence[Popen[bytes]]) -> None:
    while True:
        time.sleep(EVERY)
        codes = [child.poll() for child in children]
        failed = [rank for rank, code in enumerate(codes, 1) if code]
        if failed:
            code = codes[failed[0] - 1]
            if code is not None and code > 0:  # it prints why; this process may fail likewise
                time.sleep(GRACE)
            how = f"ended with code {code}" if code and code > 0 else f"was killed by {_name(code)}"
            pid = children[failed[0] - 1].pid
            _end(f"Process {failed[0]} of {len(children) + 1} (PID {pid}) {how}", children)
        if all(code == 0 for code in codes):
            return


def _stay_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    first = os.environ.get("LOCAL_RANK") == "1"
    _end(f"The process that leads (PID {parent}) is gone" if first else "", [])


def _end(said: str, children: Sequence[Popen[bytes]]) -> None:
    """Say what happened and end this process, whatever it is waiting for."""
    sys.stdout.flush()
    if said:
        line = f"{said}, so all end: the same command goes on from the last checkpoint."
        print(line, file=sys.stderr, flush=True)
    _kill(children)
    os._exit(1)


def _kill(children: Sequence[Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.kill()


def _name(code: int | None) -> str:
    return signal.Signals(-(code or 0)).name


def _in_background(look: Callable[[], None]) -> None:
    threading.Thread(target=look, daemon=True, name="siblings").start()
