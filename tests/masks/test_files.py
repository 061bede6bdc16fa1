import os
import stat

import pytest

from ltpl.masks.files import whole_file


def test_the_file_appears_whole_with_its_folders(tmp_path):
    path = tmp_path / "runs" / "seed_0" / "mask.bin"
    with whole_file(path) as beside:
        assert beside.parent == path.parent
        beside.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert os.listdir(path.parent) == ["mask.bin"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    """Pitfall: a killed run leaves a truncated file that counts as complete."""
    path = tmp_path / "mask.bin"
    path.write_bytes(b"old")

    def fail():
        with whole_file(path) as beside:
            beside.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["mask.bin"]


def test_a_new_file_can_be_read_by_others_as_the_umask_says(tmp_path):
    """A temporary file is private; what it becomes must not be."""
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "mask.bin") as beside:
            beside.write_bytes(b"x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "mask.bin").stat().st_mode) == 0o640
