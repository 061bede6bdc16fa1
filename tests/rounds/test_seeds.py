"""Which seed decides what."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import (
    BATCHES,
    SIZE,
    Augmented,
    Data,
    Fit,
    InMemory,
    OfImages,
    Watch,
    bits,
    find,
    part,
    same,
)
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from ltpl.rounds.plan import Plan
from ltpl.rounds.seeds import (
    Seeds,
    mixed,
    random_states,
    restore_random_states,
    seed_all,
)

SHORT = {"max_epochs": 2}


def dense(folder: Path, seeds: list[int], make_data: Any = Data, **options: Any) -> list[Fit]:
    watch = Watch()
    find(folder, watch, make_data=make_data, levels=0, seeds=seeds, trainer=SHORT, **options)
    return [watch.of(f"seed_{seed}/round_00") for seed in seeds]


def together(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def same_inputs(one: Fit, other: Fit) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.inputs, other.inputs, strict=True))


def test_the_same_seed_twice_gives_the_same_bits(tmp_path: Path) -> None:
    seed = random.randrange(1000)
    torch.manual_seed(0)
    one = find(tmp_path / "one", seeds=[seed], levels=2)
    torch.manual_seed(1)  # what happened before does not count
    other = find(tmp_path / "other", seeds=[seed], levels=2)
    assert bits(one.path) == bits(other.path)
    assert len(bits(one.path)) == 3 * 3


def test_replicates_differ_in_everything(tmp_path: Path) -> None:
    one, other = dense(tmp_path / "run", [0, 1])
    assert not same(one.weights, other.weights)
    assert one.numbers != other.numbers
    assert not same_inputs(one, other)


def test_replicates_with_one_order_see_the_same_batches(tmp_path: Path) -> None:
    one, other = dense(tmp_path / "run", [0, 1], order_seed=7)
    assert one.numbers == other.numbers
    assert not same(one.weights, other.weights)
    assert not same_inputs(one, other)


def test_replicates_with_one_initialisation_see_other_batches(tmp_path: Path) -> None:
    one, other = dense(tmp_path / "run", [0, 1], init_seed=7)
    assert same(one.weights, other.weights)
    assert one.numbers != other.numbers


def test_the_seed_of_augmentation_changes_augmentation_alone(tmp_path: Path) -> None:
    (one,) = dense(tmp_path / "one", [0])
    (other,) = dense(tmp_path / "other", [0], augmentation_seed=7)
    assert same(one.weights, other.weights)
    assert one.numbers == other.numbers
    assert not same_inputs(one, other)


def test_loaders_that_augment_by_a_seed_get_that_of_augmentation(tmp_path: Path) -> None:
    def inputs(name: str, **options: Any) -> list[torch.Tensor]:
        watch = Watch()
        given = {"levels": 0, "trainer": SHORT, "order_seed": 3, **options}
        find(tmp_path / name, watch, OfImages, InMemory, **given)
        return watch.of("seed_0/round_00").inputs

    one, same_again, other = inputs("one"), inputs("again"), inputs("other", augmentation_seed=7)
    assert all(torch.equal(a, b) for a, b in zip(one, same_again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_replicates_with_one_augmentation_and_order_see_the_same_inputs(tmp_path: Path) -> None:
    one, other = dense(tmp_path / "run", [0, 1], augmentation_seed=7, order_seed=7)
    assert torch.equal(one.inputs[0], other.inputs[0])
    assert same_inputs(one, other)


def test_each_kind_of_chance_has_the_seed_that_is_given_or_the_replicates() -> None:
    chosen = random.sample(range(100), 4)
    names = ("init_seed", "order_seed", "augmentation_seed", "mask_seed")
    for name, field, seed in zip(names, Seeds.__dataclass_fields__, chosen, strict=True):
        seeds = Plan(run="", **{name: seed}).seeds_of(777)
        assert vars(seeds) == {**vars(Seeds(777, 777, 777, 777)), field: seed}


def test_random_masks_have_a_seed_of_their_own(tmp_path: Path) -> None:
    options: dict[str, Any] = {"prune": {"criterion": "random"}, "trainer": SHORT}
    one = find(tmp_path / "one", **options)
    other = find(tmp_path / "other", mask_seed=7, **options)
    twice = find(tmp_path / "twice", mask_seed=7, **options)
    assert one.mask(1).digest != other.mask(1).digest == twice.mask(1).digest
    names = "seed_0/round_00/final.safetensors"
    assert bits(one.path)[names] == bits(other.path)[names]


def test_random_masks_differ_from_level_to_level(tmp_path: Path) -> None:
    run = find(tmp_path / "run", levels=2, one_shot=True, prune={"criterion": "random"})
    one, other = run.mask(1), run.mask(2)
    assert any((other[name] & ~one[name]).any() for name in one)


class FromGenerator(Data):
    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(5)
        return DataLoader(part(0), SIZE, shuffle=True, generator=generator)


class FromBatches(Data):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(part(0), batch_sampler=BatchSampler(RandomSampler(part(0)), SIZE, True))


class AcrossProcesses(Data):
    def train_dataloader(self) -> DataLoader:
        sampler = DistributedSampler(part(0), num_replicas=1, rank=0)
        return DataLoader(part(0), SIZE, sampler=sampler)


class InOrder(Data):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(Augmented(part(0)), SIZE, sampler=SequentialSampler(part(0)))


@pytest.mark.parametrize("make_data", [Data, FromGenerator, FromBatches, AcrossProcesses])
def test_each_epoch_has_an_order_of_its_own_from_the_seed(tmp_path: Path, make_data: Any) -> None:
    one, other = dense(tmp_path / "run", [0, 1], make_data)
    for fit in (one, other):
        epochs = fit.numbers[:BATCHES], fit.numbers[BATCHES:]
        assert epochs[0] != epochs[1]
        for epoch in epochs:
            assert sorted(together(epoch)) == list(range(BATCHES * SIZE))
    assert one.numbers != other.numbers


def test_an_order_that_is_not_random_stays(tmp_path: Path) -> None:
    (fit,) = dense(tmp_path / "run", [0], InOrder)
    assert together(fit.numbers) == 2 * list(range(BATCHES * SIZE))
    assert not torch.equal(fit.inputs[0], fit.inputs[BATCHES])


def test_every_round_of_a_replicate_sees_the_same_batches(tmp_path: Path) -> None:
    watch = Watch()
    find(tmp_path / "run", watch, levels=2)
    one, *others = (watch.of(f"seed_0/round_{level:02}") for level in range(3))
    assert all(fit.numbers == one.numbers for fit in others)
    assert all(torch.equal(fit.inputs[0], one.inputs[0]) for fit in others)


def test_mixed_seeds_depend_on_every_part() -> None:
    parts = [("order", 0, 1), ("order", 1, 0), ("order", 0, 11), ("order", 0), ("orde", "r", 0, 1)]
    assert len({mixed(*each) for each in parts}) == len(parts)
    assert all(0 <= mixed(*each) < 2**32 for each in parts)


def test_random_states_come_back() -> None:
    def draws() -> list[Any]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), float(torch.rand(()))]

    seed_all(random.randrange(1000))
    draws()
    states = random_states()
    first = draws()
    assert draws() != first
    restore_random_states(states)
    assert draws() == first
