from __future__ import annotations

from typing import Any

import pytest
import torch

from ltpl.data.order import EpochBatches, generator

from .numbered import flat, numbered, one_line


def orders(samples: int, batch_size: int, epoch: int = 0, **options: Any) -> list[list[int]]:
    sampler = EpochBatches(range(samples), batch_size, **options)
    sampler.set_epoch(epoch)
    return [batch.tolist() for batch in sampler]


def of_all(ranks: int, samples: int, batch_size: int, **options: Any) -> list[list[list[int]]]:
    """Return the batches of every process."""
    every = range(ranks)
    return [orders(samples, batch_size, num_replicas=ranks, rank=r, **options) for r in every]


def test_no_two_seeds_share_an_epoch() -> None:
    seeds = (0, 1, 2, 3, 2**32 - 1)
    seen = {tuple(flat(orders(50, 7, epoch, seed=seed))) for seed in seeds for epoch in range(5)}
    assert len(seen) == 25


def test_the_order_does_not_depend_on_other_random_numbers() -> None:
    sampler = EpochBatches(range(50), 7, seed=3)
    first = [batch.tolist() for batch in sampler]
    torch.manual_seed(torch.seed() % 1000)
    assert first == [batch.tolist() for batch in sampler]


def test_drawing_an_order_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    orders(50, 7)
    assert torch.equal(before, torch.get_rng_state())


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    assert flat(orders(50, 7, epoch=2)) == flat(orders(50, 3, epoch=2)) == flat(orders(50, 99, 2))


def test_kinds_of_chance_share_no_numbers() -> None:
    drawn = [
        torch.rand(9, generator=generator(seed, epoch, kind)).tolist()
        for seed in range(3)
        for epoch in range(3)
        for kind in range(3)
    ]
    assert len({tuple(each) for each in drawn}) == 27


def test_a_new_seed_attribute_gives_the_order_of_that_seed() -> None:
    sampler = EpochBatches(range(50), 7, seed=3)
    sampler.seed = 8
    assert [batch.tolist() for batch in sampler] == orders(50, 7, seed=8)


def test_without_a_seed_the_one_of_seed_everything_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert orders(50, 7) == orders(50, 7, seed=0)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert orders(50, 7) == orders(50, 7, seed=5)


@pytest.mark.parametrize(("samples", "sizes"), [(23, [5, 5, 5, 5, 3]), (20, [5] * 4), (3, [3])])
def test_every_sample_comes_once_and_the_last_short_batch_is_kept(
    samples: int, sizes: list[int]
) -> None:
    batches = orders(samples, 5)
    assert [len(batch) for batch in batches] == sizes
    assert sorted(flat(batches)) == list(range(samples))
    assert len(EpochBatches(range(samples), 5)) == len(sizes)


def test_drop_last_drops_the_short_batch() -> None:
    batches = orders(23, 5, drop_last=True)
    assert [len(batch) for batch in batches] == [5] * 4
    assert len(set(flat(batches))) == 20
    assert len(EpochBatches(range(23), 5, drop_last=True)) == 4
    assert orders(4, 5, drop_last=True) == []


def test_unshuffled_batches_come_in_order() -> None:
    assert flat(orders(23, 5, shuffle=False)) == list(range(23))
    assert orders(23, 5, shuffle=False, epoch=4) == orders(23, 5, shuffle=False)


def test_no_samples_make_no_batch() -> None:
    assert orders(0, 5) == []
    assert len(EpochBatches(range(0), 5)) == 0


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_processes_give_out_every_sample_once(ranks: int, shuffle: bool) -> None:
    for samples in range(ranks, 30):
        for batch_size in (1, 2, 4, 7):
            parts = of_all(ranks, samples, batch_size, shuffle=shuffle, epoch=1)
            assert sorted(flat([flat(part) for part in parts])) == list(range(samples))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_processes_have_equally_many_batches_of_nearly_the_same_size(ranks: int) -> None:
    for samples in range(1, 30):
        for batch_size in (1, 2, 4, 7):
            parts = of_all(ranks, samples, batch_size)
            (batches,) = {len(part) for part in parts}
            for rank, part in enumerate(parts):
                sampler = EpochBatches(range(samples), batch_size, num_replicas=ranks, rank=rank)
                assert len(sampler) == batches
                assert sampler.num_samples == len(flat(part))
                assert all(len(batch) == batch_size for batch in part[:-1])
                assert 0 < len(part[-1]) <= batch_size + 1
            lasts = [len(part[-1]) for part in parts]
            assert max(lasts) - min(lasts) <= 1


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_only_with_fewer_samples_than_processes_does_a_sample_come_twice(ranks: int) -> None:
    for samples in range(1, ranks):
        parts = of_all(ranks, samples, 4)
        assert [list(map(len, part)) for part in parts] == [[1]] * ranks
        assert {flat(part)[0] for part in parts} == set(range(samples))


@pytest.mark.parametrize("ranks", [2, 3])
def test_drop_last_gives_the_processes_full_batches_and_nothing_twice(ranks: int) -> None:
    for samples in range(12, 30):
        parts = of_all(ranks, samples, 4, drop_last=True)
        assert {tuple(map(len, part)) for part in parts} == {(4,) * (samples // ranks // 4)}
        together = flat([flat(part) for part in parts])
        assert len(set(together)) == len(together)


def test_two_processes_see_the_global_batches_of_one() -> None:
    one = orders(40, 10, seed=4)
    two = of_all(2, 40, 5, seed=4)
    assert [sorted(a + b) for a, b in zip(*two, strict=True)] == [sorted(batch) for batch in one]


def test_the_processes_are_those_of_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    assert orders(23, 4) == of_all(3, 23, 4)[2]


def test_indices_are_where_the_data_is() -> None:
    data = numbered(9).to(torch.device("meta"))
    assert {batch.device.type for batch in EpochBatches(data, 4)} == {"meta"}
    assert {batch.device.type for batch in EpochBatches(range(9), 4)} == {"cpu"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: a whole number is wanted, at least 1."),
        ({"batch_size": 2.0}, "batch_size=2.0: a whole number is wanted, at least 1."),
        ({"batch_size": 2, "seed": -1}, "seed=-1: a whole number is wanted, 0 to 4294967295."),
    ],
)
def test_wrong_options_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    assert one_line(lambda: EpochBatches(range(9), **options)) == message
