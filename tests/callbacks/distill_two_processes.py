"""Distil on two processes, and the same by hand in one; write what both arrive at."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from distill import ALPHA, TEMPERATURE, kl
from tiny import BATCHES, EPOCHS, Tiny, dataset, network, trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset

from ltpl.callbacks import Distillation

HALF = 5


class Shared(Tiny):
    """Every second sample is for the second process, in order."""

    def train_dataloader(self) -> DataLoader:
        mine = range(self.global_rank, len(dataset()), 2)
        return DataLoader(Subset(dataset(), mine), batch_size=HALF)


def by_hand(net: nn.Module, teacher: nn.Module) -> dict[str, Tensor]:
    """Two halves of each batch, gradients averaged."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = dataset().tensors
    for _ in range(EPOCHS):
        for batch in range(BATCHES):
            for rank in (0, 1):
                mine = slice(2 * HALF * batch + rank, 2 * HALF * (batch + 1), 2)
                z, goal = net(x[mine]), teacher(x[mine]).detach()
                soft = ALPHA * TEMPERATURE**2 * kl(z, goal, TEMPERATURE)
                loss = (1 - ALPHA) * cross_entropy(z, y[mine]) + soft
                (loss / 2).backward()
            optimizer.step()
            optimizer.zero_grad()
    return net.state_dict()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net, teacher = network(norm=False), network().eval()
    twin, theirs = copy.deepcopy(net), copy.deepcopy(teacher)
    distillation = Distillation(teacher, temperature=TEMPERATURE, alpha=ALPHA)
    run = trainer(folder, [distillation], devices=2, strategy="ddp", use_distributed_sampler=False)
    module = Shared(net, torch.optim.SGD)
    run.fit(module)
    assert len(list(run.strategy.model.parameters())) == len(list(net.parameters()))
    torch.save(net.state_dict(), folder / f"rank{run.global_rank}.pt")
    if run.is_global_zero:
        torch.save(by_hand(twin, theirs), folder / "by_hand.pt")
