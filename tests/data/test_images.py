from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ltpl.data import MNIST
from ltpl.data.images import FILES, MEAN, STD, decoded

ROOT = Path(os.environ.get("LTPL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
wants_mnist = pytest.mark.skipif(
    not (ROOT / "MNIST" / "raw").is_dir(),
    reason=f"no MNIST/raw in {ROOT}; LTPL_DATA names the folder that holds it",
)


def split(**options: Any) -> MNIST:
    data = MNIST(**({"data_dir": ROOT} | options))
    data.setup("fit")
    return data


@wants_mnist
def test_training_and_validation_make_up_the_training_images() -> None:
    data = split()
    assert [len(part) for part in (data.train, data.val, data.test)] == [55_000, 5_000, 10_000]
    original = decoded(ROOT.absolute(), train=True)
    parts = torch.cat([data.train.images, data.val.images]).flatten(1)
    code = torch.randint(2**40, (784,))
    assert torch.equal((parts.long() @ code).sort().values, codes(original.images, code))
    assert torch.equal(codes(data.val.images, code).unique(), codes(data.val.images, code))
    shared = torch.isin(codes(data.val.images, code), codes(data.train.images, code))
    assert not shared.any()


def codes(images: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    return (images.flatten(1).long() @ code).sort().values


@wants_mnist
def test_images_keep_their_labels() -> None:
    torchvision = pytest.importorskip("torchvision")
    original = torchvision.datasets.MNIST(ROOT, train=False)
    data = split()
    images, labels = data.test[torch.arange(300)]
    expected = (original.data[:300, None].float() / 255 - MEAN) / STD
    torch.testing.assert_close(images, expected)
    assert torch.equal(labels, original.targets[:300])


@wants_mnist
def test_the_training_pixels_have_mean_zero_and_deviation_one() -> None:
    images = torch.cat([images for images, _ in split().train_dataloader()])
    assert images.dtype == torch.float32
    assert images.shape[1:] == (1, 28, 28)
    assert abs(float(images.mean())) < 0.01
    assert abs(float(images.std()) - 1) < 0.01


@wants_mnist
def test_the_seed_alone_decides_the_split() -> None:
    first, again, other = split(seed=1), split(seed=1), split(seed=2)
    assert torch.equal(first.val.images, again.val.images)
    assert not torch.equal(first.val.images, other.val.images)
    assert torch.equal(first.test.images, other.test.images)


@wants_mnist
def test_the_files_are_read_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    split()
    monkeypatch.setattr("ltpl.data.images.torchvision_mnist", lambda: pytest.fail("read again"))
    split(seed=5, val_size=1)


def one_line(raised: pytest.ExceptionInfo[ValueError]) -> str:
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_missing_files_are_named_with_the_folder_and_the_cure(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES[1:]:
        (raw / name).touch()
    with pytest.raises(ValueError, match="not found") as raised:
        split(data_dir=tmp_path)
    message = one_line(raised)
    assert message.startswith(f"data_dir: {FILES[0]} not found in {raw};")
    assert FILES[1] not in message
    assert "download=True" in message


@pytest.mark.parametrize("content", [b"", b"no images at all, but long enough for a header"])
def test_broken_files_are_said_in_one_line(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("torchvision")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / name).write_bytes(content)
    with pytest.raises(ValueError, match="are not MNIST's") as raised:
        split(data_dir=tmp_path)
    assert str(raw) in one_line(raised)


@wants_mnist
def test_a_file_cut_short_is_said_in_one_line(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(ROOT / "MNIST" / "raw", raw, ignore=shutil.ignore_patterns("*.gz"))
    (raw / FILES[0]).chmod(0o644)
    with (raw / FILES[0]).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match="are not MNIST's") as raised:
        split(data_dir=tmp_path)
    one_line(raised)


def test_a_missing_torchvision_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for name in FILES:
        (tmp_path / "MNIST" / "raw" / name).touch()
    with pytest.raises(ValueError, match="pip install torchvision") as raised:
        split(data_dir=tmp_path)
    one_line(raised)


def test_files_are_fetched_only_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    monkeypatch.setattr(
        "ltpl.data.images.torchvision_mnist",
        lambda: lambda root, download: fetched.append((root, download)),
    )
    MNIST(tmp_path).prepare_data()
    assert not fetched
    MNIST(tmp_path, download=True).prepare_data()
    assert fetched == [(tmp_path, True)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_size": 60_000}, "val_size=60000: a whole number is wanted, 1 to 59999."),
        ({"batch_size": 0}, "batch_size=0: a whole number is wanted, at least 1."),
        ({"seed": True}, "seed=True: a whole number is wanted, 0 to 4294967295."),
        ({"resident": "gpu"}, "resident='gpu': 'auto' and 'cpu' are allowed."),
    ],
)
def test_wrong_options_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="=") as raised:
        MNIST(**options)
    assert str(raised.value) == message
