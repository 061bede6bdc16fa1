from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor

from ltpl.cli import main
from ltpl.data import CIFAR10, CIFAR100, MNIST, FashionMNIST, ImageFolder, images
from ltpl.data.images import IDX, TorchvisionImages, decoded

from .numbered import one_line, pixels

ROOT = Path(os.environ.get("LTPL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
wants_mnist = pytest.mark.skipif(
    not (ROOT / "MNIST" / "raw").is_dir(),
    reason=f"no MNIST/raw in {ROOT}; LTPL_DATA names the folder that holds it",
)


def split(kind: type[TorchvisionImages] = MNIST, **options: Any) -> TorchvisionImages:
    data = kind(**({"data_dir": ROOT} | options))
    data.setup("fit")
    return data


def refused(kind: type[TorchvisionImages], data_dir: Path) -> str:
    return one_line(lambda: split(kind, data_dir=data_dir))


def codes(images: Tensor, code: Tensor) -> Tensor:
    return (images.flatten(1).long() @ code).sort().values


@wants_mnist
def test_training_and_validation_make_up_the_training_images() -> None:
    data = split()
    assert [len(part) for part in (data.train, data.val, data.test)] == [55_000, 5_000, 10_000]
    original = decoded("MNIST", ROOT.absolute(), "MNIST/raw", IDX, train=True)
    parts = torch.cat([data.train.images, data.val.images])
    code = torch.randint(2**40, (784,))
    assert torch.equal(codes(parts, code), codes(original.images, code))
    shared = torch.isin(codes(data.val.images, code), codes(data.train.images, code))
    assert not shared.any()


@wants_mnist
def test_images_keep_their_labels() -> None:
    torchvision = pytest.importorskip("torchvision")
    original = torchvision.datasets.MNIST(ROOT, train=False)
    data = split(eval_batch_size=300)
    batch, labels = next(iter(data.test_dataloader()))
    expected = (original.data[:300, None].float() / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(batch, expected)
    assert torch.equal(labels, original.targets[:300])


@wants_mnist
def test_the_training_pixels_have_mean_zero_and_deviation_one() -> None:
    seen = torch.cat([batch for batch, _ in split(batch_size=1000).train_dataloader()])
    assert seen.dtype == torch.float32
    assert seen.shape[1:] == (1, 28, 28)
    assert abs(float(seen.mean())) < 0.01
    assert abs(float(seen.std()) - 1) < 0.01


@wants_mnist
def test_the_files_are_read_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    split()
    monkeypatch.setattr(images, "torchvision_reader", lambda name: pytest.fail("read again"))
    split(seed=5, val_size=1, label_noise=1.0)


@wants_mnist
def test_a_file_cut_short_is_said_in_one_line(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(ROOT / "MNIST" / "raw", raw, ignore=shutil.ignore_patterns("*.gz"))
    (raw / IDX[0]).chmod(0o644)
    with (raw / IDX[0]).open("r+b") as file:
        file.truncate(1000)
    assert "are not MNIST's" in refused(MNIST, tmp_path)


def idx(path: Path, numbers: Tensor) -> None:
    """Write numbers as MNIST's files have them."""
    sizes = b"".join(size.to_bytes(4, "big") for size in numbers.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, 8, numbers.dim()]) + sizes + numbers.numpy().tobytes())


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_grey_images_are_read_as_they_were_written(
    kind: type[TorchvisionImages], tmp_path: Path
) -> None:
    pytest.importorskip("torchvision")
    shapes = ((60, 28, 28), (60,), (20, 28, 28), (20,))
    written = [torch.randint(0, 10, shape, dtype=torch.uint8) for shape in shapes]
    for name, numbers in zip(IDX, written, strict=True):
        idx(tmp_path / kind.folder / name, numbers)
    data = split(kind, data_dir=tmp_path, val_size=10)
    assert torch.equal(data.test.images, written[2][:, None])
    assert data.test.labels.tolist() == written[3].tolist()
    assert [len(part) for part in (data.train, data.val)] == [50, 10]
    assert data.batch_size == 60
    assert not data.look.augmentation


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision take CIFAR's files whatever their sums are."""
    cifar = pytest.importorskip("torchvision.datasets.cifar")
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)


def write_cifar(kind: type[TorchvisionImages], root: Path) -> dict[str, tuple[Tensor, list[int]]]:
    """Write random images as CIFAR's files have them; return those of each file."""
    written = {}
    for name in kind.files:
        pictures = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
        labels = torch.randint(0, kind.classes, (20,)).tolist()
        written[name] = pictures, labels
        content: dict[str, Any] = {
            "data": pictures.flatten(1).numpy(),
            "fine_labels" if kind is CIFAR100 else "labels": labels,
            "label_names": [],
            "fine_label_names": [],
        }
        path = root / kind.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(content))
    return written


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_colour_images_are_read_as_they_were_written(
    kind: type[TorchvisionImages], tmp_path: Path
) -> None:
    written = write_cifar(kind, tmp_path)
    data = split(kind, data_dir=tmp_path, val_size=5)
    test = next(name for name in kind.files if name.startswith("test"))
    assert torch.equal(data.test.images, written[test][0])
    assert data.test.labels.tolist() == written[test][1]
    known = {
        picture.numpy().tobytes(): label
        for pictures, labels in written.values()
        for picture, label in zip(pictures, labels, strict=True)
    }
    for part in (data.train, data.val):
        for picture, label in zip(part.images, part.labels.tolist(), strict=True):
            assert known[picture.numpy().tobytes()] == label
    assert len(data.train) + len(data.val) == 20 * sum("train" in x or "data" in x for x in written)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_colour_images_become_what_torchvision_makes_of_them(
    kind: type[TorchvisionImages], tmp_path: Path
) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    written = write_cifar(kind, tmp_path)
    data = split(kind, data_dir=tmp_path, val_size=5)
    name = next(name for name in kind.files if name.startswith("test"))
    of_the_papers = transforms.Normalize(kind.mean, kind.std)
    expected = of_the_papers(written[name][0].float() / 255)
    torch.testing.assert_close(pixels(data.test_dataloader()), expected)


@pytest.mark.usefixtures("unchecked")
def test_colour_images_are_cropped_and_mirrored_as_in_the_papers(tmp_path: Path) -> None:
    write_cifar(CIFAR10, tmp_path)
    look = split(CIFAR10, data_dir=tmp_path, val_size=5).look
    assert (look.augmentation.crop, look.augmentation.flip) == (4, True)
    plain = split(CIFAR10, data_dir=tmp_path, val_size=5, crop=0, flip=False)
    train = pixels(plain.train_dataloader())
    stored = plain.look(plain.train.images)
    assert sorted(train.flatten(1).tolist()) == sorted(stored.flatten(1).tolist())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("kind", "classes"), [(CIFAR10, 10), (CIFAR100, 100)])
def test_noise_is_drawn_over_all_classes(
    kind: type[TorchvisionImages], classes: int, tmp_path: Path
) -> None:
    write_cifar(kind, tmp_path)
    drawn = [
        split(kind, data_dir=tmp_path, val_size=1, seed=seed, label_noise=1.0).train.labels
        for seed in range(80)
    ]
    assert len(torch.cat(drawn).unique()) == classes


@pytest.mark.usefixtures("unchecked")
def test_modules_share_what_is_read_and_not_their_noise(tmp_path: Path) -> None:
    write_cifar(CIFAR10, tmp_path)
    noise = split(CIFAR10, data_dir=tmp_path, val_size=0.2, seed=1, label_noise=1.0)
    clean = split(CIFAR10, data_dir=tmp_path, val_size=0.2, seed=1)
    other = split(CIFAR10, data_dir=tmp_path, val_size=0.2, seed=2)
    assert noise.test is clean.test is other.test
    assert noise.train.labels.tolist() != clean.train.labels.tolist()
    assert torch.equal(noise.train.images, clean.train.images)
    labels = [torch.cat([part.train.labels, part.val.labels]) for part in (clean, other)]
    assert labels[0].bincount().tolist() == labels[1].bincount().tolist()


def test_files_with_other_sums_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    write_cifar(CIFAR10, tmp_path)
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("opened"))
    message = refused(CIFAR10, tmp_path)
    assert f"the files in {tmp_path / CIFAR10.folder} are not CIFAR10's" in message
    assert "delete them and set download=True" in message


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10, CIFAR100])
def test_missing_files_are_named_with_the_folder_and_the_cure(
    kind: type[TorchvisionImages], tmp_path: Path
) -> None:
    folder = tmp_path / kind.folder
    folder.mkdir(parents=True)
    missing, *present = kind.files
    for name in present:
        (folder / name).touch()
    message = refused(kind, tmp_path)
    assert message.startswith(f"data_dir: {missing} not found in {folder};")
    assert not any(name in message for name in present if name not in missing + str(folder))
    assert "download=True" in message


def test_a_folder_in_the_home_of_the_user_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / "pictures" / "MNIST" / "raw"
    assert f"not found in {place};" in refused(MNIST, Path("~/pictures"))


@pytest.mark.parametrize("content", [b"", b"no images at all, but long enough for a header"])
def test_broken_files_are_said_in_one_line(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("torchvision")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in IDX:
        (raw / name).write_bytes(content)
    assert f"the files in {raw} are not MNIST's" in refused(MNIST, tmp_path)


@pytest.mark.parametrize("kind", [MNIST, CIFAR100])
def test_a_missing_torchvision_is_said_in_one_line(
    kind: type[TorchvisionImages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    (tmp_path / kind.folder).mkdir(parents=True)
    for name in kind.files:
        (tmp_path / kind.folder / name).touch()
    message = refused(kind, tmp_path)
    assert message.startswith(f"{kind.name} is read by torchvision")
    assert message.endswith("pip install torchvision")


def test_files_are_fetched_only_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr(
        images,
        "torchvision_reader",
        lambda name: lambda root, download: fetched.append((name, root, download)),
    )
    CIFAR10(tmp_path).prepare_data()
    assert not fetched
    CIFAR10(tmp_path, download=True).prepare_data()
    assert fetched == [("CIFAR10", tmp_path, True)]


@pytest.mark.parametrize("kind", [MNIST, CIFAR10])
def test_without_a_network_one_line_says_what_to_do(
    kind: type[TorchvisionImages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utils = pytest.importorskip("torchvision.datasets.utils")

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(utils.urllib.request, "urlopen", unreachable)
    message = one_line(kind(tmp_path, download=True).prepare_data)
    assert message.startswith(f"download: {kind.name} could not be fetched into {tmp_path} (")
    assert "Temporary failure in name resolution" in message
    assert str(tmp_path / kind.folder) in message


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (MNIST, {"batch_size": 0}, "batch_size=0: a whole number is wanted, at least 1."),
        (CIFAR10, {"seed": -1}, "seed=-1: a whole number is wanted, 0 to 4294967295."),
        (CIFAR10, {"crop": 0.5}, "crop=0.5: a whole number is wanted, at least 0."),
        (CIFAR100, {"download": "no"}, "download='no': True and False are allowed."),
    ],
)
def test_wrong_options_are_named_in_one_line(
    kind: type[TorchvisionImages], options: dict[str, Any], message: str
) -> None:
    assert one_line(lambda: kind(**options)) == message


OPTIONS = {"data_dir", "batch_size", "eval_batch_size", "val_size", "seed", "fraction"}
OPTIONS |= {"label_noise", "crop", "flip", "resident", "num_workers"}


# Lightning 2.6 calls what jsonargparse 4.53 deprecates
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
class TestCommandLine:
    @pytest.fixture(autouse=True)
    def _no_arguments(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["ltpl"])
        monkeypatch.chdir(tmp_path)  # where the logs go

    @pytest.mark.parametrize(
        ("kind", "own"),
        [
            (MNIST, {"download"}),
            (CIFAR10, {"download"}),
            (CIFAR100, {"download"}),
            (ImageFolder, {"size", "test_folder", "mean", "std"}),
        ],
    )
    def test_all_options_are_shown_with_help(
        self, kind: type, own: set[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            main(["fit", "--data", kind.__name__, "--data.help", kind.__name__])
        told = capsys.readouterr().out
        shown = [part.split() for part in told.split("\n  --data.")[1:]]
        assert {words[0] for words in shown} == OPTIONS | own
        assert all(len(words) > 6 for words in shown)

    def test_missing_files_end_a_command_with_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
        given = ["--data=CIFAR10", f"--data.data_dir={tmp_path}"]
        with pytest.raises(SystemExit) as stopped:
            main(["fit", "--config", str(config), *given])
        assert stopped.value.code == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert "data_batch_1" in told
        assert str(tmp_path / "cifar-10-batches-py") in told
