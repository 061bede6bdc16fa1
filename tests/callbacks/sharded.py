"""Fits whose parameters may be sharded, all on the same batches, so that the bits must be equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from tiny import ZeroAfterEachStep, dataset, trainer
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from ltpl.callbacks import (
    EarlyBird,
    FreezeSparsity,
    NetworkSlimming,
    PruneAtEpoch,
    RewindToEpoch,
    Trajectory,
)

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
ADAM = partial(torch.optim.Adam, lr=0.02)


def network() -> nn.Sequential:
    """15 and 3 rows: two processes cannot hold as many each."""
    torch.manual_seed(0)
    first, middle = nn.Linear(8, 15), nn.Linear(15, 16)
    norms = nn.BatchNorm1d(15), nn.BatchNorm1d(16)
    for norm in norms:
        nn.init.constant_(norm.weight, 0.5)
    net = nn.Sequential(first, norms[0], nn.Tanh(), middle, norms[1], nn.Tanh(), nn.Linear(16, 3))
    with torch.no_grad():
        first.weight[::2, 1::3] = 0
    return net.double()


def data() -> DataLoader:
    x, y = dataset().tensors
    return DataLoader(TensorDataset(x.double(), y), batch_size=20)


class Module(pl.LightningModule):
    """Shards itself where there is a mesh, as Lightning's documentation shows.

    After validation `fully_shard` leaves the outermost parameters gathered, which are others than
    the optimiser's.
    """

    def __init__(self, optimizer: Callable[..., Any], shard_all: bool = True) -> None:
        super().__init__()
        self.net = network()
        self.make_optimizer = optimizer
        self.shard_all = shard_all

    def configure_model(self) -> None:
        if self.device_mesh is None or isinstance(self.net[0].weight, DTensor):
            return
        mesh = self.device_mesh["data_parallel"]
        fully_shard(self.net[0], mesh=mesh)
        fully_shard(self.net if self.shard_all else self.net[3], mesh=mesh)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self.net(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)]


class Zeros(ZeroAfterEachStep):
    """Look at what lies here after each step."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self.pruner.mask is None or self.pruner.pinned:
            return
        self.steps += 1
        optimizer = trainer.optimizers[0]
        for name, keep in self.pruner.mask.items():
            weight = pl_module.get_parameter(name)
            held = [weight.detach(), weight.grad, *optimizer.state[weight].values()]
            for tensor in held:
                if tensor.shape == keep.shape:
                    assert not whole(tensor)[~keep].count_nonzero()


@dataclass
class Case:
    """What is fitted: `callbacks`, of which the first holds the mask."""

    callbacks: Callable[[], list[Any]]
    optimizer: Callable[..., Any] = SGD
    shard_all: bool = True


def pruned(amount: float = 0.4, **options: Any) -> PruneAtEpoch:
    return PruneAtEpoch([1, 3], amount, **options)


CASES = {
    "rewind": Case(lambda: [pruned(), RewindToEpoch(epoch=1), Trajectory()]),
    "restored": Case(lambda: [pruned(), RewindToEpoch(epoch=1, optimizer="restored")], ADAM),
    "half sharded": Case(lambda: [pruned(), RewindToEpoch(epoch=1)], ADAM, shard_all=False),
    "reshuffle": Case(lambda: [pruned(), RewindToEpoch(at="3it", mask_1="reshuffle")]),
    "freeze": Case(lambda: [pruned(), RewindToEpoch(epoch=0, mask_0="freeze")], ADAM),
    "reinit": Case(lambda: [pruned(exclude="net.6.*"), RewindToEpoch(policy="reinit")]),
    "movement": Case(lambda: [pruned(criterion="movement", scope="layer")], ADAM),
    "zeros stay": Case(lambda: [FreezeSparsity()]),
    "slimming": Case(lambda: [NetworkSlimming(0.02, 0.5, [1, 3], of="remaining"), Trajectory()]),
    "proximal": Case(lambda: [NetworkSlimming(0.02, 0.4, 2, step="proximal", score="l1")], ADAM),
    "bird": Case(lambda: [EarlyBird(0.5, 0.45, window=2, action="prune")], ADAM),
}


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fit(folder: Path, case: Case, resume: Any = None, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return the Trainer, and all that training arrived at."""
    callbacks = case.callbacks()
    zeros = Zeros(callbacks[0])
    run = trainer(folder, [*callbacks, zeros], limit_val_batches=1, **options)
    module = Module(case.optimizer, case.shard_all)
    run.fit(module, data(), data(), ckpt_path=resume)
    module.eval()
    module.net(data().dataset[:][0])  # gathers what it may leave gathered
    state = {n: whole(v) for n, v in module.state_dict().items()}
    slots = run.optimizers[0].state_dict()["state"]
    held = {
        "state": state,
        "slots": {i: {n: whole(v) for n, v in slots[i].items()} for i in slots},
        "mask": dict(callbacks[0].mask),
        "metrics": dict(run.callback_metrics),
        "history": [entry for c in callbacks for entry in getattr(c, "history", [])],
        "zeros seen": zeros.steps,
    }
    return run, held
