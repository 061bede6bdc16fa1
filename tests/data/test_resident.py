from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from ltpl.data.augment import Augmentation
from ltpl.data.order import EpochBatches
from ltpl.data.resident import BatchLoader, Look, Resident, read_ahead

from .numbered import flat, numbered, numbers, one_line, pixels

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # 1 core
AUGMENTED = Look(std=255.0, augmentation=Augmentation(crop=2, flip=True))


def loader(data: Any, samples: int = 5, seed: int = 0, **options: Any) -> BatchLoader:
    found = BatchLoader(data, samples, **({"shuffle": True, "look": AUGMENTED} | options))
    found.sampler.seed = seed
    return found


def test_an_index_tensor_gives_a_batch_as_it_is_stored() -> None:
    data = numbered(12)
    index = torch.tensor([3, 0, 3])
    images, labels = data[index]
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3, 0, 3]
    assert torch.equal(images, data.images[index])
    assert torch.equal(data[[0, 3]][0], data.images[[0, 3]])


def test_a_number_gives_one_sample() -> None:
    data = numbered(12)
    image, label = data[7]
    assert torch.equal(image, data.images[7])
    assert label.item() == 7


def test_images_and_labels_must_be_equally_many() -> None:
    message = one_line(lambda: Resident(torch.zeros(3, 1), [0, 1]))
    assert message == "3 images and 2 labels: one for each."


def test_a_part_is_a_copy_and_other_labels_leave_the_first_alone() -> None:
    data = numbered(6)
    part = data.part(torch.tensor([4, 1]))
    part.images.zero_()
    part.labels.zero_()
    assert data.images.any()
    other = data.labelled(torch.zeros(6, dtype=torch.int64))
    assert other.images is data.images
    assert data.labels.tolist() == list(range(6))


def test_the_size_is_that_of_the_images() -> None:
    data = numbered(6)
    assert len(data) == 6
    assert data.nbytes == 6 * 3 * 6 * 6


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_become_what_is_left_after_the_mean_in_deviations(channels: int) -> None:
    data = numbered(12, channels)
    mean, std = (torch.rand(channels) * 99 + 50).tolist(), (torch.rand(channels) + 50).tolist()
    found = Look(mean, std)(data.images)
    shape = (1, channels, 1, 1)
    expected = (data.images.double() - torch.tensor(mean).view(shape)) / torch.tensor(std).view(
        shape
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float())
    torch.testing.assert_close(Look(3.0, 2.0)(data.images), (data.images.float() - 3) / 2)


def test_looking_changes_no_stored_pixel() -> None:
    for images in (torch.randn(6, 2, 2, 2), numbered(6).images):
        before = images.clone()
        Look(1.0, 2.0)(images)
        assert torch.equal(images, before)


def test_pixels_are_augmented_as_they_are_stored() -> None:
    augmentation = Augmentation(crop=2, flip=True)
    data = numbered(9)
    draws = augmentation.draws(9, 0, 0)
    found = Look(50.0, 9.0, augmentation)(data.images, draws)
    assert torch.equal(found, Look(50.0, 9.0)(augmentation(data.images, draws)))


def test_the_loader_is_an_ordinary_one_with_a_distributed_sampler() -> None:
    found = loader(numbered(23))
    assert isinstance(found, DataLoader)
    assert isinstance(found.sampler, DistributedSampler)
    assert len(found) == 5
    batches = list(found)
    assert [tuple(images.shape) for images, _ in batches] == [(5, 3, 6, 6)] * 4 + [(3, 3, 6, 6)]
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(23))


def test_without_shuffle_samples_come_in_order_and_as_they_are() -> None:
    data = numbered(23)
    plain = BatchLoader(data, 5)
    assert flat(numbers(plain)) == list(range(23))
    assert torch.equal(pixels(plain), data.images.float())


def test_how_a_loader_is_made_is_said_by_name_so_that_lightning_can_make_it_again() -> None:
    with pytest.raises(TypeError, match="positional"):
        BatchLoader(numbered(9), 4, True)  # type: ignore[misc]


def test_batches_and_indices_are_on_the_device_of_the_data() -> None:
    found = loader(numbered(9).to(torch.device("meta")), augment=True)
    assert {index.device.type for index in found.sampler} == {"meta"}
    assert {part.device.type for batch in found for part in batch} == {"meta"}


def test_an_epoch_comes_again_the_same_and_another_differs() -> None:
    found = loader(numbered(23), augment=True)
    first = pixels(found, epoch=3)
    assert torch.equal(first, pixels(found, epoch=3))
    order = numbers(found)
    assert not torch.equal(first, pixels(found, epoch=4))
    assert numbers(found) != order


def test_breaking_off_and_iterating_anew_begins_at_the_start() -> None:
    found = loader(numbered(23), augment=True)
    whole = pixels(found)
    for _ in zip(range(2), found, strict=False):
        pass
    assert torch.equal(pixels(found), whole)


def test_two_iterations_at_once_do_not_disturb_each_other() -> None:
    found = loader(numbered(23), augment=True)
    for (one, _), (other, _) in zip(found, found, strict=True):
        assert torch.equal(one, other)


def drawn_for(found: BatchLoader, epoch: int) -> dict[int, bytes]:
    """Return the image of each number in an epoch."""
    found.sampler.set_epoch(epoch)
    return {int(n): i.numpy().tobytes() for batch in found for i, n in zip(*batch, strict=True)}


def test_what_is_drawn_for_a_sample_depends_on_nothing_but_seed_and_epoch() -> None:
    data = numbered(23)
    one = drawn_for(loader(data, 5, augment=True), 2)
    other = drawn_for(loader(data, 7, augment=True), 2)
    ranks: dict[int, bytes] = {}
    for rank in range(2):
        sampler = EpochBatches(data, 4, num_replicas=2, rank=rank, seed=0)
        part = loader(data, 4, augment=True, sampler=sampler)
        ranks |= drawn_for(part, 2)
    assert one == other == ranks


def test_no_two_seeds_or_epochs_draw_the_same() -> None:
    data = numbered(23)
    found = {
        tuple(sorted(drawn_for(loader(data, seed=seed, augment=True), epoch).items()))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(found) == 9


def test_a_seed_of_its_own_changes_the_augmentation_and_not_the_order() -> None:
    data = numbered(23)
    one, other = loader(data, seed=4, augment=True), loader(data, seed=4, augment=True)
    other.augmentation_seed = 9
    assert numbers(one) == numbers(other)
    assert not torch.equal(pixels(one), pixels(other))
    same = loader(data, seed=4, augment=True)
    same.augmentation_seed = 4
    assert torch.equal(pixels(one), pixels(same))


def test_only_a_loader_that_augments_does() -> None:
    data = numbered(23)
    index = torch.cat(list(loader(data).sampler))
    assert torch.equal(pixels(loader(data)), data.images[index] / 255.0)
    assert torch.equal(pixels(loader(data, augment=True, look=Look())), data.images[index].float())


@pytest.mark.parametrize("workers", [0, 2])
def test_feeding_leaves_the_global_random_states_alone(workers: int) -> None:
    found = loader(numbered(20), augment=True, workers=workers)
    torch_state, python_state, numpy_state = (
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].copy(),
    )
    list(found)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert python_state == random.getstate()
    assert (numpy_state == np.random.get_state()[1]).all()


def test_workers_give_the_same_batches_to_the_bit() -> None:
    data = numbered(23)
    for epoch in (0, 3):
        one = pixels(loader(data, augment=True), epoch)
        assert torch.equal(one, pixels(loader(data, augment=True, workers=2), epoch))


class Refusing(Dataset[Any]):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: Tensor) -> Any:
        if 4 in index.tolist():
            raise ValueError("size: number 4 is too large; remove it.")
        return index, index


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_data_set_refuses_is_said_in_its_own_words(workers: int) -> None:
    def read() -> Iterator[Any]:
        return read_ahead(Refusing(), list(torch.arange(9).split(3)), workers)

    assert next(read())[0].tolist() == [0, 1, 2]
    assert one_line(lambda: list(read())) == "size: number 4 is too large; remove it."
    assert not multiprocessing.active_children()


def test_the_state_tells_how_many_batches_of_which_epoch_were_given() -> None:
    found = loader(numbered(23))
    assert found.state_dict() == {"epoch": 0, "batches": 0}
    found.sampler.set_epoch(6)
    batches = iter(found)
    for given in range(1, 6):
        next(batches)
        assert found.state_dict() == {"epoch": 6, "batches": given}
    found.state_dict()["batches"] = 0
    assert found.state_dict()["batches"] == 5


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("given", [0, 1, 4, 5])
def test_another_loader_goes_on_with_the_very_next_batch(given: int, workers: int) -> None:
    data = numbered(23)
    first = loader(data, augment=True, workers=workers)
    first.sampler.set_epoch(2)
    batches = list(first)
    again = iter(first)
    for _ in range(given):
        next(again)
    other = loader(data, augment=True, workers=workers)
    other.load_state_dict(first.state_dict())
    other.sampler.set_epoch(2)
    rest = list(other)
    assert len(rest) == 5 - given
    for (images, labels), (expected, of_these) in zip(rest, batches[given:], strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, of_these)


def test_the_position_goes_on_from_where_it_was_resumed() -> None:
    other = loader(numbered(23))
    other.load_state_dict({"epoch": 0, "batches": 3})
    next(iter(other))
    assert other.state_dict() == {"epoch": 0, "batches": 4}


def test_a_position_counts_for_one_iteration_of_its_own_epoch() -> None:
    found = loader(numbered(23))
    found.load_state_dict({"epoch": 2, "batches": 3})
    found.sampler.set_epoch(3)
    assert len(list(found)) == 5
    found.load_state_dict({"epoch": 3, "batches": 3})
    assert len(list(found)) == 2
    assert len(list(found)) == 5


def test_the_epoch_is_read_with_the_first_batch_not_with_the_iterator() -> None:
    data = numbered(23)
    found, expected = loader(data, augment=True), loader(data, augment=True)
    found.load_state_dict({"epoch": 5, "batches": 2})
    batches = iter(found)  # Lightning calls set_epoch only after this
    found.sampler.set_epoch(5)
    whole = pixels(expected, epoch=5)
    assert torch.equal(torch.cat([images for images, _ in batches]), whole[10:])
