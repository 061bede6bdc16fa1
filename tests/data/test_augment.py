from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltpl.data.augment import Augmentation, crop_and_flip
from ltpl.data.order import generator


def images(count: int, *shape: int) -> Tensor:
    return torch.randint(1, 256, (count, *shape), dtype=torch.uint8)


@pytest.mark.parametrize("padding", [4, 1, 0])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 5, 9)])
def test_crops_and_flips_equal_torchvision_on_the_same_choices(
    shape: tuple[int, int, int], padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    batch = images(40, *shape)
    top, left = torch.randint(2 * padding + 1, (2, 40))
    flip = torch.rand(40) < 0.5
    found = crop_and_flip(batch, top, left, flip, padding)
    for image, i, j, mirrored, ours in zip(batch, top, left, flip, found, strict=True):
        place = (int(i), int(j), *shape[1:])
        monkeypatch.setattr(transforms.RandomCrop, "get_params", lambda *_, place=place: place)
        of_the_papers = transforms.Compose(
            [
                transforms.RandomCrop(shape[1:], padding=padding),
                transforms.RandomHorizontalFlip(float(mirrored)),
            ]
        )
        assert torch.equal(ours, of_the_papers(image))


def test_the_draws_reach_all_that_torchvision_can_do_and_nothing_else() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    (image,) = images(1, 3, 8, 8)
    padded = functional.pad(image, 2)
    crops = [functional.crop(padded, i, j, 8, 8) for i in range(5) for j in range(5)]
    possible = {bytes(x.numpy()) for crop in crops for x in (crop, functional.hflip(crop))}
    augmentation = Augmentation(crop=2, flip=True)
    every = augmentation.draws(2000, seed=int(torch.randint(2**31, ())), epoch=0).unique()
    found = augmentation(image.expand(len(every), -1, -1, -1), every)
    assert len(every) == len(possible) == 50
    assert {bytes(each.contiguous().numpy()) for each in found} == possible


def test_every_choice_is_equally_likely() -> None:
    samples, choices = 200_000, 2 * 9 * 9
    counts = Augmentation(crop=4, flip=True).draws(samples, seed=1, epoch=2).bincount()
    expected = samples / choices
    assert len(counts) == choices
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    augmentation = Augmentation(crop=4, flip=True)
    draws = {
        (seed, epoch): tuple(augmentation.draws(30, seed, epoch).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(draws.values())) == 9
    torch.manual_seed(torch.seed() % 1000)
    before = torch.get_rng_state()
    assert tuple(augmentation.draws(30, 2, 1).tolist()) == draws[2, 1]
    assert torch.equal(before, torch.get_rng_state())


def test_draws_share_no_numbers_with_the_order() -> None:
    augmentation = Augmentation(crop=4, flip=True)
    of_the_order = torch.randint(2 * 9 * 9, (30,), generator=generator(5, 3))
    assert not torch.equal(augmentation.draws(30, 5, 3), of_the_order)


def test_without_flip_nothing_is_mirrored_and_without_crop_nothing_is_moved() -> None:
    batch = images(50, 1, 4, 4)
    moved = Augmentation(crop=0, flip=True)
    found = moved(batch, moved.draws(50, 0, 0))
    mirrored = (found == batch.flip(3)).flatten(1).all(1)
    assert (mirrored | (found == batch).flatten(1).all(1)).all()
    assert 10 < mirrored.sum() < 40

    shifted = Augmentation(crop=1, flip=False)
    ramp = torch.arange(1, 17).view(1, 1, 4, 4).repeat(50, 1, 1, 1)
    found = shifted(ramp, shifted.draws(50, 0, 0))
    inside = (found[..., 1:] > 0) & (found[..., :-1] > 0)
    assert (found.diff(dim=3)[inside] == 1).all()
    assert not torch.equal(found, ramp)


def test_an_augmentation_that_does_nothing_is_false() -> None:
    assert not Augmentation()
    assert Augmentation(crop=1)
    assert Augmentation(flip=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_kind_of_numbers_is_kept_and_the_images_too(dtype: torch.dtype) -> None:
    batch = images(9, 3, 4, 4).to(dtype)
    before = batch.clone()
    augmentation = Augmentation(crop=2, flip=True)
    found = augmentation(batch, augmentation.draws(9, 0, 0))
    assert found.dtype == dtype
    assert torch.equal(batch, before)
