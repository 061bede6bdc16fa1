from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ltpl.data.module import ImageData, SplitImageData, noisy
from ltpl.data.resident import Resident

from .numbered import Numbered, flat, numbered, numbers, one_line, pixels

CLASSES = 10
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # 1 core


class Parts(SplitImageData):
    """Images that carry their number in their pixels, in ten classes."""

    def __init__(self, samples: int = 200, **options: Any):
        super().__init__(**({"val_size": 40} | options))
        places = torch.arange(samples)
        images = torch.stack([places // 256, places % 256], 1).to(torch.uint8)[:, :, None, None]
        self.data = Resident(images, places % CLASSES)

    def stored(self, train: bool) -> Resident:
        return self.data if train else self.data.part(torch.arange(30))


def parts(**options: Any) -> Parts:
    found = Parts(**options)
    found.setup("fit")
    return found


def places(part: Resident) -> list[int]:
    return (part.images[:, 0, 0, 0].long() * 256 + part.images[:, 1, 0, 0]).tolist()


def test_training_and_validation_make_up_the_training_images() -> None:
    found = parts()
    assert [len(part) for part in (found.train, found.val, found.test)] == [160, 40, 30]
    assert sorted(places(found.train) + places(found.val)) == list(range(200))
    assert places(found.test) == list(range(30))


def test_images_keep_their_labels() -> None:
    found = parts(fraction=0.5)
    for part in (found.train, found.val, found.test):
        assert part.labels.tolist() == [place % CLASSES for place in places(part)]


def test_the_seed_alone_decides_the_split() -> None:
    first = parts(seed=1)
    torch.manual_seed(torch.seed() % 1000)
    before = torch.get_rng_state()
    assert places(first.val) == places(parts(seed=1).val)
    assert places(first.train) == places(parts(seed=1).train)
    assert places(first.val) != places(parts(seed=2).val)
    assert torch.equal(before, torch.get_rng_state())


def test_every_stage_has_the_same_split() -> None:
    found = parts(label_noise=0.5)
    before = places(found.train), found.train.labels.tolist(), places(found.val)
    found.setup("test")
    assert before == (places(found.train), found.train.labels.tolist(), places(found.val))


@pytest.mark.parametrize(
    ("size", "held_out"), [(1, 1), (199, 199), (0.25, 50), (0.0001, 1), (0.9999, 199)]
)
def test_a_count_or_a_share_is_held_out(size: int | float, held_out: int) -> None:
    found = parts(val_size=size)
    assert len(found.val) == held_out
    assert len(found.train) == 200 - held_out


def test_a_validation_part_that_leaves_nothing_to_train_is_refused() -> None:
    message = one_line(lambda: parts(val_size=200))
    assert message == "val_size=200: a whole number is wanted, 1 to 199."


@pytest.mark.parametrize(("fraction", "used"), [(1.0, 160), (0.5, 80), (0.01, 2), (1e-9, 1)])
def test_a_fraction_of_the_training_images_is_used(fraction: float, used: int) -> None:
    found, whole = parts(fraction=fraction), parts()
    assert len(found.train) == used
    assert set(places(found.train)) <= set(places(whole.train))
    assert places(found.val) == places(whole.val)
    assert places(found.test) == places(whole.test)


def test_a_smaller_fraction_is_part_of_a_larger_one() -> None:
    assert set(places(parts(fraction=0.2).train)) < set(places(parts(fraction=0.4).train))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_label_noise_draws_an_exact_share_of_the_training_labels_anew(share: float) -> None:
    found = parts(samples=4000, val_size=1000, label_noise=share)
    true = torch.tensor(places(found.train)) % CLASSES
    wrong = (found.train.labels != true).float().mean().item()
    assert wrong <= share
    assert wrong == pytest.approx(share * (1 - 1 / CLASSES), abs=0.03)
    for part in (found.val, found.test):
        assert part.labels.tolist() == [place % CLASSES for place in places(part)]


def test_the_share_of_noise_is_exact_and_drawn_over_all_classes() -> None:
    labels = torch.full((3000,), 100)  # a class of its own, so that every new label shows
    found = noisy(labels, 0.25, CLASSES, seed=3)
    drawn = found[found != 100]
    assert len(drawn) == 750
    assert (drawn.bincount(minlength=CLASSES) - 75).abs().max() < 45
    assert len(drawn.bincount()) == CLASSES
    assert labels.eq(100).all()


def test_the_seed_alone_decides_the_noise() -> None:
    labels = torch.zeros(500, dtype=torch.int64)
    before = torch.get_rng_state()
    found = [noisy(labels, 0.5, CLASSES, seed).tolist() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert torch.equal(before, torch.get_rng_state())


def test_noise_on_one_part_leaves_the_stored_labels_alone() -> None:
    noise, clean = Parts(label_noise=1.0), Parts()
    clean.data = noise.data  # as modules over the same files share what was decoded once
    noise.setup("fit")
    clean.setup("fit")
    assert clean.train.labels.tolist() == [place % CLASSES for place in places(clean.train)]
    assert noise.data.labels.tolist() == [place % CLASSES for place in range(200)]
    assert noise.train.labels.tolist() != clean.train.labels.tolist()
    assert places(noise.train) == places(clean.train)


def test_training_is_mixed_and_augmented_and_the_rest_is_not() -> None:
    data = numbered(23)
    module = Numbered(data)
    module.setup("fit")
    train = module.train_dataloader()
    assert sorted(flat(numbers(train))) == list(range(23))
    assert flat(numbers(train)) != list(range(23))
    order = torch.tensor(flat(numbers(train)))
    plain = module.look(data.images)
    assert not torch.equal(pixels(train), plain[order])
    for loader in (module.val_dataloader(), module.test_dataloader(), module.predict_dataloader()):
        assert flat(numbers(loader)) == list(range(23))
        assert torch.equal(pixels(loader), plain)


def test_each_loader_gives_its_own_part() -> None:
    found = parts(crop=0)
    for stage in ("val", "test"):
        loader = getattr(found, f"{stage}_dataloader")()
        assert torch.equal(pixels(loader), getattr(found, stage).images.float())
    assert torch.equal(pixels(found.predict_dataloader()), found.test.images.float())
    train = pixels(found.train_dataloader()).flatten(1).tolist()
    assert sorted(train) == sorted(found.train.images.float().flatten(1).tolist())


def test_batch_sizes_are_those_of_training_and_of_judging() -> None:
    module = Numbered(numbered(23), batch_size=9)
    module.setup("fit")
    assert [len(batch) for batch in numbers(module.train_dataloader())] == [9, 9, 5]
    for loader in (module.val_dataloader(), module.test_dataloader(), module.predict_dataloader()):
        assert [len(batch) for batch in numbers(loader)] == [5, 5, 5, 5, 3]


@pytest.mark.parametrize(("resident", "num_workers"), [(False, 0), (False, 2), ("cpu", 2)])
def test_the_samples_are_the_same_wherever_images_are_kept(resident: Any, num_workers: int) -> None:
    data = numbered(23)
    one = Numbered(data, resident=True)
    other = Numbered(data, resident=resident, num_workers=num_workers)
    one.setup("fit")
    other.setup("fit")
    for epoch in range(2):
        for stage in ("train", "val", "test"):
            loaders = (getattr(x, f"{stage}_dataloader")() for x in (one, other))
            first, second = (pixels(loader, epoch) for loader in loaders)
            assert torch.equal(first, second)


def test_workers_read_only_what_is_not_kept_in_memory() -> None:
    workers = {}
    for resident in ("auto", True, "cpu", False):
        module = Numbered(numbered(9), resident=resident, num_workers=2)
        module.setup("fit")
        workers[resident] = module.train_dataloader().workers
    assert workers == {"auto": 0, True: 0, "cpu": 0, False: 2}


class Elsewhere:
    """A trainer on a device."""

    def __init__(self, device: str, num_devices: int = 1) -> None:
        self.strategy = SimpleNamespace(root_device=torch.device(device))
        self.num_devices = num_devices
        self.training = False
        self.current_epoch = 4


def test_the_epoch_is_that_of_the_trainer_while_it_trains_and_the_sampler_s_else() -> None:
    module = Numbered(numbered(23))
    module.setup("fit")
    expected = {epoch: pixels(module.train_dataloader(), epoch) for epoch in (1, 4)}
    module.trainer = Elsewhere("cpu")
    loader = module.train_dataloader()
    assert torch.equal(pixels(loader, epoch=1), expected[1])
    module.trainer.training = True
    assert torch.equal(pixels(loader, epoch=1), expected[4])


def where(module: ImageData, monkeypatch: pytest.MonkeyPatch, free: int) -> str:
    """Return where the training data of a module would go with so much memory on a GPU."""
    moved: list[str] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))

    def to(data: Resident, device: torch.device) -> Resident:
        moved.append(device.type)
        return data

    monkeypatch.setattr(Resident, "to", to)
    module.setup("fit")
    module.train_dataloader()
    return moved[0] if moved else "nowhere"


@pytest.mark.parametrize(
    ("resident", "device", "free", "expected"),
    [
        ("auto", "cuda:0", 2, "cuda"),  # in sizes of the data
        ("auto", "cuda:0", 1.99, "cpu"),
        ("auto", "cpu", 99, "cpu"),
        (True, "cuda:0", 0, "cuda"),
        (True, "cpu", 99, "cpu"),
        ("cpu", "cuda:0", 99, "cpu"),
        (False, "cuda:0", 99, "nowhere"),
    ],
)
def test_images_are_kept_where_the_option_says(
    resident: Any, device: str, free: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = numbered(20)
    module = Numbered(data, resident=resident)
    module.trainer = Elsewhere(device)
    assert where(module, monkeypatch, int(free * data.nbytes)) == expected


@pytest.mark.parametrize(
    ("resident", "share", "processes", "expected"),
    [
        ("auto", 0.25, 1, True),  # with the copy for the split, half of the memory
        ("auto", 0.251, 1, False),
        ("auto", 0.125, 2, True),
        ("auto", 0.126, 2, False),
        (True, 9.0, 1, True),
        ("cpu", 9.0, 1, True),
        (False, 0.0, 1, False),
    ],
)
def test_images_are_kept_in_memory_where_they_fit(
    resident: Any,
    share: float,
    processes: int,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4000}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    module = Numbered(numbered(4), resident=resident)
    if processes > 1:
        module.trainer = Elsewhere("cpu", processes)
    assert module.in_memory(int(share * 4_000_000)) is expected


def test_where_the_memory_is_not_known_images_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")
    assert Numbered(numbered(4)).in_memory(2**60)
    assert not Numbered(numbered(4), resident=False).in_memory(1)


def test_a_batch_that_is_there_already_is_not_copied() -> None:
    module = Numbered(numbered(4))
    batch = torch.ones(2), torch.zeros(2)
    assert module.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    moved: tuple[Tensor, Tensor] = module.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert [part.device.type for part in moved] == ["meta", "meta"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: a whole number is wanted, at least 1."),
        ({"eval_batch_size": 0.5}, "eval_batch_size=0.5: a whole number is wanted, at least 1."),
        ({"crop": -1}, "crop=-1: a whole number is wanted, at least 0."),
        ({"flip": 1}, "flip=1: True and False are allowed."),
        ({"mean": "no"}, "mean='no': a number is wanted, or one per channel."),
        ({"std": 0}, "std=0: a number above 0 is wanted, or one per channel."),
        ({"resident": "no"}, "resident='no': 'auto', True, False and 'cpu' are allowed."),
        ({"resident": 1}, "resident=1: 'auto', True, False and 'cpu' are allowed."),
        ({"num_workers": -1}, "num_workers=-1: a whole number is wanted, at least 0."),
        ({"val_size": 0}, "val_size=0: a whole number is wanted, at least 1."),
        ({"val_size": 0.0}, "val_size=0.0: a share above 0 to below 1 is wanted."),
        ({"val_size": 1.0}, "val_size=1.0: a share above 0 to below 1 is wanted."),
        ({"seed": True}, "seed=True: a whole number is wanted, 0 to 4294967295."),
        ({"fraction": 0}, "fraction=0: a share above 0 to 1 is wanted."),
        ({"fraction": 1.5}, "fraction=1.5: a share above 0 to 1 is wanted."),
        ({"label_noise": -0.1}, "label_noise=-0.1: a share from 0 to 1 is wanted."),
    ],
)
def test_wrong_options_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    assert one_line(lambda: Parts(**options)) == message


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_on_the_gpu_are_those_of_main_memory_to_the_bit() -> None:
    module = Numbered(numbered(23), mean=[3.0, 2.0, 1.0], std=[50.0, 60.0, 70.0])
    module.setup("fit")
    expected = pixels(module.train_dataloader(), epoch=1)
    module.trainer = Elsewhere("cuda:0")
    found = pixels(module.train_dataloader(), epoch=1)
    assert found.is_cuda
    assert torch.equal(found.cpu(), expected)
