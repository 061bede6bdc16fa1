"""Learn edges on two processes, each with half of the training nodes; write what both arrive at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from graph_fits import Convolutions, graph, loader, trainer
from torch import Tensor
from torch.nn.functional import cross_entropy

from ltpl.callbacks import EdgePruning
from ltpl.masks.edges import Edges

LR, L1, STEPS = 0.1, 0.05, 4


def half(batch: object, logits: Tensor, rank: int) -> Tensor:
    nodes = batch.train_mask.nonzero().flatten()[rank::2]  # type: ignore[attr-defined]
    return cross_entropy(logits[nodes], batch.y[nodes])  # type: ignore[attr-defined]


class Halved(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Convolutions()

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        return half(batch, self.net(batch.x, batch.edge_index), self.global_rank)  # type: ignore[attr-defined]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.02)


def by_hand() -> Tensor:
    torch.manual_seed(0)
    net, data = Convolutions(), graph()
    edges = Edges.of(data.edge_index)
    mask = torch.ones(edges.total, requires_grad=True)
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.02), torch.optim.Adam([mask], lr=LR)]
    for _ in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        for rank in (0, 1):
            logits = net(data.x, data.edge_index, mask[edges.place])
            (half(data, logits, rank) / 2).backward()
        mask.grad += L1 * mask.detach().sign()
        for optimizer in optimizers:
            optimizer.step()
    return mask.detach()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module, data = Halved(), graph()
    edges = EdgePruning(0.3, lr=LR, l1=L1, epoch=STEPS)
    found: list[Tensor] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            found.append(edges._learned.values.detach().clone())

    options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    run = trainer(folder, edges, Look(), max_epochs=STEPS + 1, **options)
    run.fit(module, loader(data))
    state = {"values": found[STEPS - 1], "keep": edges.ticket.keep}
    torch.save(state, folder / f"rank{run.global_rank}.pt")
    if run.is_global_zero:
        torch.save(by_hand(), folder / "by_hand.pt")
