"""Slim on two processes, and the same by hand in one; write what both arrive at."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from slim import L1, SlimByHand, network
from tiny import BATCHES, EPOCHS, Tiny, dataset, trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset

from ltpl.callbacks import NetworkSlimming

HALF = 5


class Shared(Tiny):
    """Every second sample is for the second process, in order."""

    def train_dataloader(self) -> DataLoader:
        mine = range(self.global_rank, len(dataset()), 2)
        return DataLoader(Subset(dataset(), mine), batch_size=HALF)


def by_hand(net: torch.nn.Sequential) -> dict[str, Tensor]:
    """Two halves of each batch with statistics of their own, gradients averaged."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    script = SlimByHand(net, [optimizer])
    x, y = dataset().tensors
    for epoch in range(EPOCHS):
        if epoch == 2:
            script.prune()
        for batch in range(BATCHES):
            for rank in (0, 1):
                mine = slice(2 * HALF * batch + rank, 2 * HALF * (batch + 1), 2)
                (cross_entropy(net(x[mine]), y[mine]) / 2).backward()
            script.step(optimizer)
            optimizer.zero_grad()
    return {n: p.detach() for n, p in net.named_parameters()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = network()
    twin = copy.deepcopy(net)
    slimming = NetworkSlimming(L1, amount=0.5, epoch=2)
    run = trainer(folder, [slimming], devices=2, strategy="ddp", use_distributed_sampler=False)
    run.fit(Shared(net, torch.optim.SGD))
    torch.save(dict(net.named_parameters()), folder / f"rank{run.global_rank}.pt")
    if run.is_global_zero:
        torch.save(by_hand(twin), folder / "by_hand.pt")
