from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from ltpl.data.resident import EpochBatches, Resident, ResidentLoader


def orders(samples: int, batch_size: int, **options: Any) -> list[list[int]]:
    return [batch.tolist() for batch in EpochBatches(range(samples), batch_size, **options)]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def pixels(samples: int) -> Resident:
    images = torch.randint(0, 256, (samples, 1, 4, 4), dtype=torch.uint8)
    return Resident(images, torch.arange(samples))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    seen = set()
    for seed in (0, 1, 2**32 - 1):
        for epoch in (0, 1):
            sampler = EpochBatches(range(50), 7, seed=seed)
            sampler.set_epoch(epoch)
            first = [batch.tolist() for batch in sampler]
            torch.manual_seed(torch.seed() % 1000)
            assert first == [batch.tolist() for batch in sampler]
            seen.add(tuple(flat(first)))
    assert len(seen) == 6


def test_a_new_seed_attribute_gives_the_order_of_that_seed() -> None:
    sampler = EpochBatches(range(50), 7, seed=3)
    sampler.seed = 8
    assert [batch.tolist() for batch in sampler] == orders(50, 7, seed=8)


def test_without_a_seed_the_one_of_seed_everything_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert orders(50, 7) == orders(50, 7, seed=0)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert orders(50, 7) == orders(50, 7, seed=5)


def test_feeding_leaves_the_global_random_state_alone() -> None:
    data = pixels(20)
    before = torch.get_rng_state()
    list(ResidentLoader(data, 6, shuffle=True))
    assert torch.equal(before, torch.get_rng_state())


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


def test_unshuffled_batches_come_in_order() -> None:
    assert flat(orders(23, 5, shuffle=False)) == list(range(23))


@pytest.mark.parametrize("samples", [24, 23, 1])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_partition_the_data_up_to_the_padding(samples: int, ranks: int) -> None:
    parts = [orders(samples, 5, num_replicas=ranks, rank=rank) for rank in range(ranks)]
    together = sorted(index for part in parts for index in flat(part))
    assert set(together) == set(range(samples))
    assert len(together) == -(-samples // ranks) * ranks
    assert len({tuple(map(len, part)) for part in parts}) == 1
    for rank, part in enumerate(parts):
        assert len(EpochBatches(range(samples), 5, num_replicas=ranks, rank=rank)) == len(part)


def test_drop_last_gives_ranks_equally_many_and_nothing_twice() -> None:
    parts = [orders(23, 5, num_replicas=2, rank=rank, drop_last=True) for rank in range(2)]
    together = [index for part in parts for index in flat(part)]
    assert [list(map(len, part)) for part in parts] == [[5, 5], [5, 5]]
    assert len(set(together)) == len(together)


def test_two_ranks_see_the_global_batches_of_one() -> None:
    one = orders(40, 10, seed=4)
    two = [orders(40, 5, seed=4, num_replicas=2, rank=rank) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*two, strict=True)] == [sorted(batch) for batch in one]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: a whole number is wanted, at least 1."),
        ({"batch_size": 2.0}, "batch_size=2.0: a whole number is wanted, at least 1."),
        ({"batch_size": 2, "seed": -1}, "seed=-1: a whole number is wanted, 0 to 4294967295."),
    ],
)
def test_wrong_options_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="a whole number") as raised:
        EpochBatches(range(9), **options)
    assert str(raised.value) == message


def test_images_are_normalised_batch_by_batch_and_stay_as_stored() -> None:
    images = torch.randint(0, 256, (12, 3, 4, 4), dtype=torch.uint8)
    mean, std = torch.rand(3, 1, 1) * 255, torch.rand(3, 1, 1) + 50
    data = Resident(images, [1] * 12, mean, std)
    index = torch.tensor([3, 0, 3])
    batch, labels = data[index]
    torch.testing.assert_close(batch, (images[index].float() - mean) / std)
    assert labels.dtype == torch.int64
    assert data.images.dtype == torch.uint8
    assert torch.equal(data[[3]][0][0], batch[0])
    assert torch.equal(data[0][0], batch[1])


def test_float_images_are_not_changed_in_place() -> None:
    images = torch.randn(6, 2)
    before = images.clone()
    list(ResidentLoader(Resident(images, range(6), mean=1.0, std=2.0), 4))
    assert torch.equal(images, before)


def test_images_and_labels_must_be_equally_many() -> None:
    with pytest.raises(ValueError, match=r"^3 images and 2 labels: one for each\.$"):
        Resident(torch.zeros(3, 1), [0, 1])


def test_the_loader_is_an_ordinary_one_with_a_distributed_sampler() -> None:
    loader = ResidentLoader(pixels(23), 5, shuffle=True)
    assert isinstance(loader, DataLoader)
    assert isinstance(loader.sampler, DistributedSampler)
    assert len(loader) == 5
    batches = list(loader)
    assert [tuple(images.shape) for images, _ in batches] == [(5, 1, 4, 4)] * 4 + [(3, 1, 4, 4)]
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(23))


def test_batches_and_indices_are_on_the_device_of_the_data() -> None:
    loader = ResidentLoader(pixels(9).to(torch.device("meta")), 4, shuffle=True)
    assert {index.device.type for index in loader.sampler} == {"meta"}
    assert {part.device.type for batch in loader for part in batch} == {"meta"}


class Recorder(pl.LightningModule):
    def __init__(self, samples: int) -> None:
        super().__init__()
        self.net = nn.Linear(16, samples)
        self.epochs: dict[int, list[list[int]]] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.epochs.setdefault(self.current_epoch, []).append(batch[1].tolist())
        return cross_entropy(self.net(batch[0].flatten(1)), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(loader: DataLoader, **options: Any) -> dict[int, list[list[int]]]:
    recorder = Recorder(23)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(recorder, loader)
    return recorder.epochs


def test_the_trainer_gives_every_epoch_its_order() -> None:
    loader = ResidentLoader(pixels(23), 5, shuffle=True)
    loader.sampler.seed = 11
    epochs = fit(loader, max_epochs=3)
    for epoch, batches in epochs.items():
        sampler = EpochBatches(range(23), 5, seed=11)
        sampler.set_epoch(epoch)
        assert batches == [batch.tolist() for batch in sampler]
    assert len({tuple(flat(batches)) for batches in epochs.values()}) == 3


@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning")
def test_overfitting_repeats_whole_batches() -> None:
    epochs = fit(ResidentLoader(pixels(23), 5, shuffle=True), max_epochs=2, overfit_batches=2)
    assert epochs[0] == epochs[1] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
