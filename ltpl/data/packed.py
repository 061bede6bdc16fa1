"""Decoded images in one file beside the data, whole or not at all, good for this content alone."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ltpl.data.resident import Resident


def content_digest(root: Path, files: Iterable[Path], options: object) -> str:
    """Return a digest over the names and bytes of files, and the options of decoding them.

    Args:
        root: The folder that names are relative to, so that a moved folder keeps its digest.
        files: The files.
        options: What else the decoded images depend on.
    """
    found = hashlib.blake2b(repr(options).encode(), digest_size=16)
    for file in files:
        found.update(os.fsencode(file.relative_to(root)))
        found.update(hashlib.blake2b(file.read_bytes(), digest_size=16).digest())
    return found.hexdigest()


def unpack(path: Path, digest: str) -> Resident | None:
    """Return the images of a packed file; nothing if it is not there, broken or of other content.

    Args:
        path: The file.
        digest: The digest of the content that is wanted.
    """
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("digest") == digest:
                return Resident(file.get_tensor("images"), file.get_tensor("labels"))
    except (OSError, SafetensorError):
        pass
    return None


def pack(data: Resident, path: Path, digest: str) -> None:
    """Write decoded images into a file that appears whole or not at all.

    Args:
        data: The images.
        path: The file; another one there is replaced.
        digest: The digest of the content they were decoded from.

    Raises:
        OSError: If the folder is not writable or the disk full.
    """
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        save_file({"images": data.images, "labels": data.labels}, aside, {"digest": digest})
        aside.chmod(path.parent.stat().st_mode & 0o666)  # not for its writer alone
        os.replace(aside, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        aside.unlink(missing_ok=True)
