"""Every callback that masks, in several processes or in one; write what each of them arrives at.

All processes together see the batches that one alone sees, in float64.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from graph_fits import Convolutions, graph
from graph_fits import loader as one_graph
from pytorch_lightning.loggers import CSVLogger
from tiny import Tiny, trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from ltpl.callbacks import (
    Distillation,
    EarlyBird,
    EdgePruning,
    FreezeSparsity,
    NetworkSlimming,
    PruneAtEpoch,
    RewindToEpoch,
    Trajectory,
)
from ltpl.data.order import EpochBatches
from ltpl.masks import Mask
from ltpl.masks.saliency import snip

SAMPLES, BATCH = 60, 12
NAME, EDGES = "net.0.weight", 88


def network() -> nn.Sequential:
    """Every sample is normalised alone, so that it does not matter which others a process has."""
    net = nn.Sequential(
        nn.Linear(8, 16),
        nn.LayerNorm(16),
        nn.Tanh(),
        nn.Linear(16, 12),
        nn.LayerNorm(12),
        nn.Tanh(),
        nn.Linear(12, 3),
    )
    for norm in (net[1], net[4]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return net


class Shared(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(SAMPLES, 8, generator=generator, dtype=torch.double)
        data = TensorDataset(x, torch.randint(3, (SAMPLES,), generator=generator))
        size = self.trainer.world_size
        order = EpochBatches(
            data, BATCH // size, seed=1, num_replicas=size, rank=self.trainer.global_rank
        )
        return DataLoader(data, batch_size=None, sampler=order)


class SharedGraph(Tiny):
    """The training nodes are shared; the mean over processes is the mean over all nodes."""

    def train_dataloader(self) -> DataLoader:
        torch.manual_seed(1)
        data = graph()
        data.x = data.x.double()
        return one_graph(data)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        size, nodes = self.trainer.world_size, batch.train_mask.nonzero().flatten()
        mine = nodes[self.trainer.global_rank :: size]
        logits = self.net(batch.x, batch.edge_index)
        return cross_entropy(logits[mine], batch.y[mine], reduction="sum") * size / len(nodes)


def with_mean(
    model: nn.Module, parameters: Any, batches: Any, loss: Any, reduce: Any
) -> dict[str, Tensor]:
    return snip(model, parameters, batches, loss, reduce)


def without_mean(
    model: nn.Module, parameters: Any, batches: Any, loss: Any
) -> Mapping[str, Tensor]:
    return snip(model, parameters, batches, loss)


def by_gradient(criterion: Any) -> list[Any]:
    return [PruneAtEpoch([0, 2], 0.4, criterion=criterion, batches=2)]


def distilled() -> list[Any]:
    torch.manual_seed(2)
    return [Distillation(network()), PruneAtEpoch(2, 0.4)]


CASES: dict[str, Callable[[], list[Any]]] = {
    "magnitude": lambda: [PruneAtEpoch([1, 3], 0.4), Trajectory()],
    "movement": lambda: [PruneAtEpoch([1, 3], 0.4, criterion="movement")],
    "random": lambda: [PruneAtEpoch([1, 3], 0.4, criterion="random")],
    "snip": lambda: by_gradient("snip"),
    "grasp": lambda: by_gradient("grasp"),
    "synflow": lambda: by_gradient("synflow"),
    "own with mean": lambda: by_gradient(with_mean),
    "own": lambda: by_gradient(without_mean),
    "rewind": lambda: [PruneAtEpoch([2, 3], 0.4), RewindToEpoch(1), Trajectory()],
    "reinit": lambda: [PruneAtEpoch(2, 0.4), RewindToEpoch(policy="reinit")],
    "freeze": lambda: [FreezeSparsity()],
    "slimming": lambda: [NetworkSlimming(0.01, 0.5, 2, kinds="layer")],
    "taylor": lambda: [NetworkSlimming(0.01, 0.5, 2, kinds="layer", score="taylor", batches=3)],
    "early bird": lambda: [EarlyBird(0.5, 0.3, window=2, action="prune", kinds="layer")],
    "distillation": distilled,
    "edges": lambda: [EdgePruning(0.3, lr=0.1, l1=0.05, epoch=[1, 3])],
    "edges by chance": lambda: [EdgePruning(0.3, "random", epoch=[1, 3])],
}


def fit(folder: Path, name: str, devices: int, *others: Any) -> dict[str, Any]:
    """Train a case and return the masks and weights that this process ends with."""
    callbacks = [*CASES[name](), *others]
    torch.manual_seed(0)
    edges = "edges" in name
    module = SharedGraph(Convolutions()) if edges else Shared(network())
    module.make_optimizer, module.lr = torch.optim.Adam, 0.02
    if name == "freeze":
        Mask({"0.weight": torch.rand(16, 8) > 0.5}).apply_(module.net)
    options: dict[str, Any] = {} if devices == 1 else {"devices": devices, "strategy": "ddp"}
    run = trainer(
        folder / name,
        callbacks,
        max_epochs=4,
        precision="64-true",
        use_distributed_sampler=False,
        logger=CSVLogger(folder / name),
        log_every_n_steps=2,
        **options,
    )
    run.fit(module)
    if devices > 1:
        os.environ.setdefault("LOCAL_RANK", "0")  # all processes are there for the next fit
    held = next((c.mask for c in callbacks if getattr(c, "mask", None) is not None), None)
    return {
        "mask": {"edges": callbacks[0].ticket.keep} if edges else dict(held or {}),
        "weights": {n: p.detach() for n, p in module.named_parameters()},
        "rank": run.global_rank,
    }


class Tamper(pl.Callback):
    """Lets the last process hold something else."""

    def __init__(self, moment: str, change: Callable[[Any], None]) -> None:
        self.change = change
        setattr(self, moment, self.now)

    def now(self, trainer: Any, *_: Any) -> None:
        if trainer.global_rank == trainer.world_size - 1:
            self.change(trainer)


def other_mask(trainer: Any) -> None:
    held = trainer.callbacks[0]
    held.mask = Mask({NAME: torch.zeros(16, 8, dtype=torch.bool)})


def other_after_broadcast(trainer: Any) -> None:
    def broadcast(value: Any) -> Any:
        value = original(value)
        return Mask({n: ~keep for n, keep in value.items()}) if isinstance(value, Mask) else value

    original, trainer.strategy.broadcast = trainer.strategy.broadcast, broadcast


def other_snapshot(trainer: Any) -> None:
    trainer.callbacks[1].snapshot_path = "elsewhere.safetensors"


def other_draw(trainer: Any) -> None:
    trainer.callbacks[1].seed = 17


def other_watch(trainer: Any) -> None:
    trainer.callbacks[0].watch.masks[0.5] = Mask({})


def other_edges(trainer: Any) -> None:
    trainer.callbacks[0]._keep = torch.zeros(EDGES, dtype=torch.bool)


def of_other_graph(trainer: Any) -> None:
    trainer.callbacks[0]._keep = torch.ones(10, dtype=torch.bool)


TAMPERED = {
    "a mask held before": ("magnitude", "on_fit_start", other_mask),
    "a mask after broadcast": ("magnitude", "on_before_prune", other_after_broadcast),
    "channels": ("slimming", "on_before_prune", other_after_broadcast),
    "zeros": ("freeze", "on_fit_start", other_mask),
    "a snapshot": ("rewind", "on_before_prune", other_snapshot),
    "weights": ("reinit", "on_before_prune", other_draw),
    "what was watched": ("early bird", "on_fit_start", other_watch),
    "edges": ("edges", "on_fit_start", other_edges),
    "edges of another graph": ("edges", "on_fit_start", of_other_graph),
}


if __name__ == "__main__":
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*does not have many workers")
    found: dict[str, Any] = {name: fit(folder, name, devices) for name in CASES}
    errors = {}
    for what, (name, moment, change) in TAMPERED.items():
        try:
            fit(folder / "tampered", name, devices, Tamper(moment, change))
        except ValueError as error:
            errors[what] = str(error)
    torch.save({"found": found, "errors": errors}, folder / f"rank{found['own']['rank']}.pt")
