from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ltpl.data import packed
from ltpl.data.packed import content_digest, pack, unpack

from .numbered import numbered


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files in a folder."""
    found = [tmp_path / "from" / name for name in ("a.png", "b.png", "c/d.png")]
    for number, file in enumerate(found):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(50 + number))
    return found


def digest(files: list[Path], options: object = ("1", None)) -> str:
    return content_digest(files[0].parent, files, options)


def test_the_digest_is_that_of_the_content_wherever_the_folder_is(files: list[Path]) -> None:
    before = digest(files)
    assert digest(files) == before
    moved = files[0].parent.rename(files[0].parents[1] / "to")
    assert digest([moved / file.relative_to(files[0].parent) for file in files]) == before


def test_content_counts_and_not_the_time_of_a_file(files: list[Path]) -> None:
    before = digest(files)
    stat, content = files[1].stat(), files[1].read_bytes()
    files[1].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(files[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest(files) != before
    files[1].write_bytes(content)
    os.utime(files[1])
    assert digest(files) == before


def test_names_count_and_which_content_is_whose(files: list[Path]) -> None:
    before = digest(files)
    one, other = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(other)
    files[1].write_bytes(one)
    assert digest(files) != before
    files[0].write_bytes(one)
    files[1].write_bytes(other)
    files[1] = files[1].rename(files[1].with_name("e.png"))
    assert digest(files) != before


def test_options_and_the_number_of_files_count(files: list[Path]) -> None:
    assert digest(files) != digest(files, ("1", 32))
    assert digest(files) != digest(files[:2])


def test_names_that_are_no_text_count_too(files: list[Path]) -> None:
    odd = Path(os.fsdecode(os.fsencode(files[0].parent) + b"/\xff.png"))
    try:
        odd.write_bytes(b"pixels")
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    assert digest([*files, odd]) != digest(files)


def test_what_was_packed_comes_back(tmp_path: Path) -> None:
    data, path = numbered(9), tmp_path / "train.packed.safetensors"
    assert unpack(path, "one") is None
    pack(data, path, "one")
    found = unpack(path, "one")
    assert found is not None
    assert found.images.dtype == torch.uint8
    assert torch.equal(found.images, data.images)
    assert torch.equal(found.labels, data.labels)
    assert os.listdir(tmp_path) == [path.name]


def test_another_content_is_not_taken_and_replaces_the_old(tmp_path: Path) -> None:
    path = tmp_path / "train.packed.safetensors"
    pack(numbered(9), path, "one")
    assert unpack(path, "two") is None
    pack(numbered(4), path, "two")
    found = unpack(path, "two")
    assert found is not None
    assert len(found) == 4
    assert unpack(path, "one") is None


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_file_cut_short_counts_for_nothing(tmp_path: Path, length: int) -> None:
    path = tmp_path / "train.packed.safetensors"
    pack(numbered(9), path, "one")
    path.write_bytes(path.read_bytes()[:length])
    assert unpack(path, "one") is None


def test_any_other_file_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "train.packed.safetensors"
    path.write_bytes(os.urandom(500))
    assert unpack(path, "one") is None
    save_file({"x": torch.zeros(2)}, path)
    assert unpack(path, "one") is None
    save_file({"x": torch.zeros(2)}, path, {"digest": "one"})
    assert unpack(path, "one") is None
    path.unlink()
    path.mkdir()
    assert unpack(path, "one") is None


def half_written(tensors: Any, aside: Path, *_: Any) -> None:
    Path(aside).write_bytes(b"half of it")
    raise KeyboardInterrupt


def stopped(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "name", "broken"), [(packed, "save_file", half_written), (os, "replace", stopped)]
)
@pytest.mark.parametrize("before", [True, False])
def test_a_writer_that_breaks_off_leaves_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
    name: str,
    broken: Any,
    before: bool,
) -> None:
    path = tmp_path / "train.packed.safetensors"
    if before:
        pack(numbered(9), path, "old")
    names = os.listdir(tmp_path)
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(KeyboardInterrupt):
        pack(numbered(4), path, "new")
    assert os.listdir(tmp_path) == names
    assert (unpack(path, "old") is not None) is before
    assert unpack(path, "new") is None


def test_the_final_name_is_there_only_when_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.packed.safetensors"

    def watched(tensors: Any, aside: Path, metadata: Any) -> None:
        save_file(tensors, aside, metadata)
        assert not path.exists()

    monkeypatch.setattr(packed, "save_file", watched)
    pack(numbered(9), path, "one")
    assert unpack(path, "one") is not None


@pytest.mark.skipif(os.name != "posix", reason="no modes of files")
@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o700, 0o600), (0o770, 0o660)])
def test_who_may_read_the_folder_may_read_the_packed_file(
    tmp_path: Path, folder: int, file: int
) -> None:
    tmp_path.chmod(folder)
    pack(numbered(2), tmp_path / "train.packed.safetensors", "one")
    assert (tmp_path / "train.packed.safetensors").stat().st_mode & 0o777 == file


def test_a_folder_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        pack(numbered(2), tmp_path / "nowhere" / "train.packed.safetensors", "one")
