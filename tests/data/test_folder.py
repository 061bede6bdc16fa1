from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from ltpl.data import ImageFolder, folder, packed
from ltpl.data.folder import Files, files_of

from .numbered import QUIET, Recorder, one_line, pixels

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("torchvision")
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # 1 core
CLASSES = ("ant", "bee", "cat")
PACKED = ("train.packed.safetensors", "test.packed.safetensors")


def picture(mode: str = "RGB", width: int = 8, height: int = 8) -> Any:
    channels = len(mode)
    size = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(torch.randint(0, 256, size, dtype=torch.uint8).numpy(), mode=None)


def fill(place: Path, each: int, **look: Any) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for number in range(each):
        picture(**look).save(place / f"{number}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes: 30 images to train and 6 to test."""
    for name in CLASSES:
        fill(tmp_path / "train" / name, 10)
        fill(tmp_path / "test" / name, 2)
    return tmp_path


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    folder.resident.cache_clear()
    yield
    folder.resident.cache_clear()


def module(root: Path, new_process: bool = True, **options: Any) -> ImageFolder:
    if new_process:
        folder.resident.cache_clear()
    found = ImageFolder(root, **({"num_workers": 0, "val_size": 6} | options))
    found.prepare_data()
    found.setup("fit")
    return found


def refused(root: Path, **options: Any) -> str:
    return one_line(lambda: module(root, **options))


def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that every set which is decoded is put into."""
    found: list[str] = []
    decoded = Files.decoded

    def noted(files: Files, workers: int, name: str) -> Any:
        found.append(name)
        return decoded(files, workers, name)

    monkeypatch.setattr(Files, "decoded", noted)
    return found


def content(paths: list[Path]) -> list[Tensor]:
    import numpy as np

    return [
        torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        for path in paths
    ]


def test_images_and_labels_are_those_of_the_folders(root: Path) -> None:
    found = module(root)
    assert found.classes == 3
    paths = sorted((root / "test").glob("*/*.png"))
    assert torch.equal(found.test.images, torch.stack(content(paths)))
    assert found.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    known = {
        image.numpy().tobytes(): CLASSES.index(path.parent.name)
        for path in (root / "train").glob("*/*.png")
        for image in content([path])
    }
    assert [len(found.train), len(found.val)] == [24, 6]
    for part in (found.train, found.val):
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            assert known.pop(image.numpy().tobytes()) == label
    assert not known


def test_a_tenth_is_held_out_if_nothing_is_said(root: Path) -> None:
    found = ImageFolder(root, num_workers=0)
    found.setup("fit")
    assert len(found.val) == 3


def test_grey_and_transparent_pictures_become_colour(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for mode, name in (("L", "grey"), ("RGBA", "clear"), ("RGB", "plain")):
            fill(tmp_path / part / name, 2, mode=mode)
    found = module(tmp_path, val_size=1)
    assert found.train.images.shape[1:] == (3, 8, 8)
    _, _, grey, *_ = found.test.images
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])


def test_all_common_formats_are_read(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "all").mkdir(parents=True)
        for suffix in ("png", "jpg", "JPEG", "bmp", "ppm", "webp", "tif"):
            picture().save(tmp_path / part / "all" / f"x.{suffix}")
    assert len(module(tmp_path, val_size=1).test) == 7


def test_files_of_other_kinds_are_passed_over(root: Path) -> None:
    for place in (root, root / "train", root / "train" / "ant", root / "test" / "bee"):
        (place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (place / "Thumbs.db").touch()
        (place / "readme.txt").write_text("no image")
    found = module(root)
    assert found.classes == 3
    assert len(found.train) + len(found.val) == 30
    assert len(found.test) == 6


@pytest.mark.parametrize("size", [4, 12])
def test_size_scales_the_shorter_side_and_cuts_the_middle(tmp_path: Path, size: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    for part in ("train", "test"):
        fill(tmp_path / part / "wide", 2, width=15, height=9)
        fill(tmp_path / part / "tall", 2, width=7, height=20)
    found = module(tmp_path, size=size, val_size=1)
    of_the_papers = transforms.Compose(
        [transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()]
    )
    paths = sorted((tmp_path / "test").glob("*/*.png"))
    expected = [of_the_papers(Image.open(path)) for path in paths]
    assert torch.equal(found.test.images, torch.stack(expected))
    assert sorted(tmp_path.glob("*.safetensors")) == [
        tmp_path / f"test-{size}.packed.safetensors",
        tmp_path / f"train-{size}.packed.safetensors",
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_samples_are_the_same_from_memory_and_from_files(root: Path, workers: int) -> None:
    options = {"crop": 2, "flip": True, "label_noise": 0.3, "batch_size": 5, "fraction": 0.8}
    one = module(root, resident=True, **options)
    other = module(root, resident=False, num_workers=workers, **options)
    assert isinstance(other.train, Files)
    assert one.look.mean == other.look.mean
    assert one.look.std == other.look.std
    for epoch in range(2):
        for stage in ("train", "val", "test"):
            loaders = [getattr(each, f"{stage}_dataloader")() for each in (one, other)]
            first, second = (pixels(loader, epoch) for loader in loaders)
            assert torch.equal(first, second)
            labels = [torch.cat([batch[1] for batch in loader]) for loader in loaders]
            assert torch.equal(*labels)


def test_a_folder_trains_the_same_from_memory_and_from_files(root: Path) -> None:
    stored = module(root).stored(train=True)
    found = []
    for resident, workers in (("auto", 0), (False, 0), (False, 2)):
        data = module(root, resident=resident, num_workers=workers, batch_size=5, crop=2)
        recorder = Recorder(stored)
        pl.Trainer(**QUIET, max_epochs=2).fit(recorder, datamodule=data)
        found.append(recorder.seen)
    assert found[0] == found[1] == found[2]


def test_training_images_are_augmented_and_no_others(root: Path) -> None:
    options = {"mean": 0.0, "std": 1.0}
    found, plain = module(root, crop=2, flip=True, **options), module(root, **options)
    assert not torch.equal(pixels(found.train_dataloader()), pixels(plain.train_dataloader()))
    for stage in ("val", "test"):
        loaders = (getattr(each, f"{stage}_dataloader")() for each in (found, plain))
        assert torch.equal(*map(pixels, loaders))


def test_one_process_packs_for_all_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ImageFolder(root, num_workers=0).prepare_data()
    folder.resident.cache_clear()
    decoded = decodings(monkeypatch)
    ImageFolder(root, num_workers=0).setup("fit")
    assert not decoded


def test_mean_and_deviation_are_those_of_the_training_images(root: Path) -> None:
    found = module(root)
    whole = torch.cat([found.train.images, found.val.images]).double().transpose(0, 1).flatten(1)
    assert found.look.mean == pytest.approx(whole.mean(1).tolist())
    assert found.look.std == pytest.approx(whole.std(1).tolist())


def test_some_images_of_every_class_are_measured(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MEASURED", 3)
    stored = module(root).stored(train=True)
    some = stored.images[[0, 14, 29]].double().transpose(0, 1).flatten(1)
    assert module(root).look.mean == pytest.approx(some.mean(1).tolist())


def test_given_figures_count(root: Path) -> None:
    mean, std = [1.0, 2.0, 3.0], 50.0
    both, one = module(root, mean=mean, std=std), module(root, mean=mean)
    assert (both.look.mean, both.look.std) == (mean, std)
    assert one.look.mean == mean
    assert one.look.std == module(root).look.std
    shape = (1, 3, 1, 1)
    expected = (both.test.images - torch.tensor(mean).view(shape)) / std
    torch.testing.assert_close(pixels(both.test_dataloader()), expected)


def test_images_of_one_colour_are_not_divided_by_nothing(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "black").mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (4, 4)).save(tmp_path / part / "black" / f"{number}.png")
    found = module(tmp_path, val_size=1)
    assert pixels(found.train_dataloader()).eq(0).all()


def test_images_are_decoded_once_and_found_packed_by_the_next_process(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = decodings(monkeypatch)
    first = module(root)
    assert decoded == ["train", "test"]
    module(root, new_process=False, seed=1)
    again = module(root)
    assert decoded == ["train", "test"]
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.train.labels, again.train.labels)
    assert {path.name for path in root.iterdir()} == {"train", "test", *PACKED}


def test_images_that_are_not_kept_in_memory_are_not_packed(root: Path) -> None:
    module(root, resident=False)
    assert {path.name for path in root.iterdir()} == {"train", "test"}


def test_a_changed_image_is_decoded_anew_though_size_and_time_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "one").mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / part / "one" / f"{number}.bmp")
    assert module(tmp_path, val_size=1).test.images[1, 0].unique().tolist() == [1]
    changed = tmp_path / "test" / "one" / "1.bmp"
    before = changed.stat()
    Image.new("RGB", (4, 4), (7, 0, 0)).save(changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed.stat().st_size == before.st_size
    decoded = decodings(monkeypatch)
    assert module(tmp_path, val_size=1).test.images[1, 0].unique().tolist() == [7]
    assert decoded == ["test"]


def test_another_image_another_class_and_another_size_are_decoded_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(root)
    decoded = decodings(monkeypatch)
    picture().save(root / "train" / "ant" / "new.png")
    assert len(module(root).train) == 25
    assert decoded == ["train"]
    for part in ("train", "test"):
        (root / part / "ant").rename(root / part / "dog")
    assert module(root).test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert decoded == ["train", "train", "test"]
    assert module(root, size=5).train.images.shape[1:] == (3, 5, 5)
    assert decoded == ["train", "train", "test", "train", "test"]


@pytest.mark.parametrize("broken", ["short", "garbage", "of another size"])
def test_a_broken_packed_file_is_decoded_anew(
    root: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = module(root)
    path = root / PACKED[0]
    if broken == "short":
        path.write_bytes(path.read_bytes()[:-7])
    elif broken == "garbage":
        path.write_bytes(os.urandom(4000))
    else:
        module(root, size=5)
        path.write_bytes((root / "train-5.packed.safetensors").read_bytes())
    decoded = decodings(monkeypatch)
    assert torch.equal(module(root).train.images, first.train.images)
    assert decoded == ["train"]
    module(root)
    assert decoded == ["train"]


def test_a_folder_that_cannot_be_written_is_said_once_for_each_part_and_works(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise packed.SafetensorError("I/O error: Permission denied (os error 13)")

    def two_modules() -> ImageFolder:
        found = module(root)
        found.setup("test")
        return module(root, new_process=False, seed=4)

    monkeypatch.setattr(packed, "save_file", refuse)
    with pytest.warns(UserWarning, match="are not kept") as warned:
        found = two_modules()
    told = [str(each.message) for each in warned]
    assert len(told) == 2
    for message, name in zip(told, PACKED, strict=True):
        assert str(root / name) in message
        assert "Permission denied" in message
        assert "\n" not in message
    assert len(found.train) == 24
    assert {path.name for path in root.iterdir()} == {"train", "test"}


def test_a_decoding_that_is_killed_leaves_no_packed_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            module(root)
    assert {path.name for path in root.iterdir()} == {"train", "test"}
    assert len(module(root).train) == 24


def test_what_does_not_fit_in_memory_is_read_from_the_files(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = 30 * 3 * 8 * 8, 6 * 3 * 8 * 8
    for memory, expected in (
        (4 * (train + test), ["Resident", "Resident"]),
        (4 * (train + test) - 4, ["Resident", "Files"]),
        (4 * train, ["Resident", "Files"]),
        (4 * train - 4, ["Files", "Files"]),
    ):
        sizes = {"SC_PHYS_PAGES": memory // 4, "SC_PAGE_SIZE": 4}
        monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
        found = module(root)
        assert [type(found.train).__name__, type(found.test).__name__] == expected


def test_label_noise_stays_out_of_what_is_packed(root: Path) -> None:
    noisy = module(root, label_noise=1.0)
    clean = module(root, new_process=False)
    again = module(root)
    true = clean.train.labels.tolist()
    assert again.train.labels.tolist() == true
    assert noisy.train.labels.tolist() != true
    assert noisy.val.labels.tolist() == clean.val.labels.tolist()
    assert set(noisy.train.labels.tolist()) <= {0, 1, 2}


def test_decoding_shows_its_progress_on_a_terminal(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module(root)
    assert capsys.readouterr() == ("", "")
    for path in root.glob("*.safetensors"):
        path.unlink()
    monkeypatch.setenv("FORCE_COLOR", "1")
    module(root)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Decoding train" in err
    assert "Decoding test" in err
    assert "100%" in err


def test_a_missing_folder_is_named_with_what_is_wanted(tmp_path: Path) -> None:
    message = refused(tmp_path)
    assert message.startswith(f"data_dir: there is no folder {tmp_path / 'train'};")
    assert "<data_dir>/train/<class>/*" in message


def test_the_test_folder_may_have_another_name(root: Path) -> None:
    (root / "test").rename(root / "val")
    assert f"there is no folder {root / 'test'};" in refused(root)
    assert len(module(root, test_folder="val").test) == 6


def test_a_folder_without_classes_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    picture().save(tmp_path / "train" / "1.png")
    expected = f"data_dir: {tmp_path / 'train'} has no folders in it; each class wants one."
    assert refused(tmp_path) == expected


def test_an_empty_class_is_named(root: Path) -> None:
    (root / "train" / "empty").mkdir()
    (root / "train" / "empty" / "readme.txt").touch()
    message = refused(root)
    assert message.startswith(f"data_dir: {root / 'train'}: ")
    assert "classes empty" in message
    assert "add images or remove the folder" in message


def test_classes_that_differ_are_named(root: Path) -> None:
    fill(root / "test" / "dog", 1)
    (root / "test" / "bee").rename(root / "test" / "eel")
    message = refused(root)
    assert str(root / "test") in message
    assert "bee, dog, eel on one side only" in message


@pytest.mark.parametrize("at_once", [1, 7, 10, 256])
@pytest.mark.parametrize("odd", ["ant", "bee", "cat"])
def test_images_of_other_sizes_are_named_with_the_cure(
    root: Path, odd: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "AT_ONCE", at_once)
    fill(root / "train" / odd, 10, width=9, height=11)
    message = refused(root)
    side = 9 if odd == "ant" else 8
    assert message.startswith(f"size: {root / 'train'}")
    first, other = ("8x8", "9x11") if odd == "ant" else ("9x11", "8x8")
    assert f"has {first} pixels, another image {other};" in message
    assert f"size={side}" in message
    assert module(root, size=8).train.images.shape == (24, 3, 8, 8)


def jpeg() -> bytes:
    buffer = BytesIO()
    picture(width=40, height=40).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"no image", jpeg()[:200], jpeg()[:-300]])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named(root: Path, content: bytes, workers: int) -> None:
    broken = root / "train" / "bee" / "broken.jpg"
    broken.write_bytes(content)
    expected = f"data_dir: {broken} cannot be read as an image; remove it."
    assert refused(root, num_workers=workers) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_while_training_from_files(root: Path, workers: int) -> None:
    data = module(root, resident=False, num_workers=workers)
    broken = root / "train" / "bee" / "3.png"
    broken.write_bytes(b"broken since")
    message = one_line(lambda: list(data.train_dataloader()) + list(data.val_dataloader()))
    assert message == f"data_dir: {broken} cannot be read as an image; remove it."


def test_a_missing_torchvision_is_said_in_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets.folder", None)
    assert refused(root).endswith("pip install torchvision")


def test_files_behave_as_data_in_memory(root: Path) -> None:
    files = files_of(root / "train", size=None)
    assert len(files) == 30
    assert files.nbytes == 30 * 3 * 8 * 8
    some = files.part(torch.tensor([29, 3])).labelled(torch.tensor([7, 8]))
    images, labels = some[torch.tensor([1, 0, 1])]
    assert labels.tolist() == [8, 7, 8]
    assert torch.equal(images, files[torch.tensor([3, 29, 3])][0])
    other = some.labelled(torch.tensor([0, 0]))
    assert (some.labels.tolist(), other.labels.tolist()) == ([7, 8], [0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0: a whole number is wanted, at least 1."),
        ({"size": 8.0}, "size=8.0: a whole number is wanted, at least 1."),
        ({"mean": [1, 2]}, "mean=[1, 2]: a number is wanted, or 3 of them, one per channel."),
        ({"std": 0}, "std=0: a number above 0 is wanted, or 3 of them, one per channel."),
        ({"val_size": 2.0}, "val_size=2.0: a share above 0 to below 1 is wanted."),
    ],
)
def test_wrong_options_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    assert one_line(lambda: ImageFolder(**options)) == message


def test_a_validation_part_that_leaves_nothing_to_train_is_refused(root: Path) -> None:
    assert refused(root, val_size=30) == "val_size=30: a whole number is wanted, 1 to 29."
