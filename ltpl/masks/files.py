"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ltpl.masks.errors import shown


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block ends well.

    A reader sees the old file or the new one, never a part; a process killed inside the block
    leaves `path` as it was.

    Args:
        path: Where the file shall appear. Missing folders are made.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "runs" / "note.txt"
        >>> with whole_file(path) as beside:
        ...     _ = beside.write_text("kept")
        >>> path.read_text()
        'kept'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.chmod(0o666 & ~_umask())
        beside.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say whose it is
        raise
    finally:
        beside.unlink(missing_ok=True)


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        path: Where it shall appear.
        tensors: What is in it.
        header: What it says of itself.

    Raises:
        OSError: If the disk does not take it.
    """
    with whole_file(path) as beside:
        try:
            save_file(tensors, beside, metadata=header)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(path)) from None


def read_tensors(path: str | Path, what: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return header and tensors of a safetensors file; no code in it is run.

    Args:
        path: The file.
        what: What it shall be, for the message.

    Raises:
        FileNotFoundError: If there is no file at `path`.
        ValueError: If it is cut short or no safetensors file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No {what} at {shown(str(path), 400)}.")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
