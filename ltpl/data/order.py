"""In which order samples come: a function of seed and epoch, shared by all processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sized

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from ltpl.data.options import LARGEST_SEED, whole


def generator(seed: int, epoch: int, kind: int = 0) -> torch.Generator:
    """Return a generator for one epoch.

    Args:
        seed: The seed.
        epoch: The epoch.
        kind: Number of the kind of chance, so that two kinds do not share their numbers.
    """
    # Not seed + epoch: then seed 1 would begin with the second epoch of seed 0.
    mixed = np.random.SeedSequence((seed, epoch, kind) if kind else (seed, epoch))
    return torch.Generator().manual_seed(int(mixed.generate_state(1)[0]))


class EpochBatches(DistributedSampler[Tensor]):
    """Whole batches of indices, in an order that depends on the seed and the epoch alone.

    All processes draw one order and each takes every n-th sample of it: together they give out
    every sample once. All have equally many batches, as DDP wants it; where the processes do not
    divide the samples, a last batch may be one sample longer than the others' or than the batch
    size. (`DistributedSampler` gives some samples out twice.) Only if there are fewer samples than
    processes does a sample come twice.

    Lightning leaves a `DistributedSampler` as it is, and calls its `set_epoch`.

    Args:
        dataset: The data.
        batch_size: Samples in a batch of this process.
        shuffle: Whether the samples are mixed; otherwise they come in order.
        seed: Seed of the order; that of `seed_everything` if not given, or else 0.
        drop_last: Whether a last batch is dropped that is shorter for any process.
        num_replicas: Number of processes; found from `torch.distributed` if not given.
        rank: Number of this process; found likewise.

    Example:
        >>> [len(batch) for batch in EpochBatches(range(7), batch_size=3)]
        [3, 3, 1]
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        shuffle: bool = True,
        seed: int | None = None,
        drop_last: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
    ):
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if num_replicas is None:
            num_replicas = torch.distributed.get_world_size() if distributed else 1
        if rank is None:
            rank = torch.distributed.get_rank() if distributed else 0
        if seed is None:
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        self.batch_size = whole("batch_size", batch_size, 1)
        whole("seed", seed, 0, LARGEST_SEED)
        super().__init__(dataset, num_replicas, rank, shuffle, seed, drop_last)  # type: ignore[arg-type]
        self.samples = len(dataset)
        self.num_samples = len(range(rank, max(self.samples, num_replicas), num_replicas))

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.samples)
        if self.shuffle:
            order = torch.randperm(self.samples, generator=generator(self.seed, self.epoch))
        if 0 < self.samples < self.num_replicas:
            order = order.repeat(-(-self.num_replicas // self.samples))[: self.num_replicas]
        mine = order[self.rank :: self.num_replicas]
        mine = mine.to(getattr(self.dataset, "device", "cpu"))  # once, not batch by batch
        cuts = range(self.batch_size, len(self) * self.batch_size, self.batch_size)
        batches = torch.tensor_split(mine, list(cuts)) if len(self) else ()
        if self.drop_last and len(self):
            batches = (*batches[:-1], batches[-1][: self.batch_size])
        return iter(batches)

    def __len__(self) -> int:
        least = max(self.samples // self.num_replicas, min(self.samples, 1))
        full, rest = divmod(least, self.batch_size)
        return full + (rest > 0 and not self.drop_last)
