"""LightningModules that installed packages bring, with tiny data that never changes."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler, TensorDataset

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")
PYG = ("lightning.pytorch",)  # where both are installed, PyG derives from this one
TOKENS = 24


def package(name: str) -> ModuleType:
    return pytest.importorskip(name, reason=f"{name} is not installed")


def tensors(count: int, *sizes: int) -> Tensor:
    return torch.randn(count, *sizes, generator=torch.Generator().manual_seed(7))


def vectors() -> DataLoader:
    return DataLoader(tensors(12, 32), batch_size=3)


class Tokens(Dataset):
    """In place of the text that Lightning's language models download."""

    block = 5

    def __init__(self, *_: Any, **__: Any) -> None:
        self.data = torch.randint(TOKENS, (41,), generator=torch.Generator().manual_seed(7))

    def __len__(self) -> int:
        return len(self.data) // self.block - 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self.block
        return self.data[start : start + self.block], self.data[start + 1 : start + 1 + self.block]


@dataclass
class Case:
    """What to attach to: a module, its data, and what must be left out of the pruning.

    `left_out` are the parameters of two or more dimensions that are no matrix or kernel, `says` is
    a warning that the network deserves.
    """

    module: Callable[[str], Any]
    data: Callable[[str], Any] = lambda namespace: vectors()
    left_out: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    rewind: dict[str, Any] = field(default_factory=dict)
    namespaces: tuple[str, ...] = NAMESPACES
    says: str | None = None


def boring(name: str) -> Callable[[str], Any]:
    return lambda namespace: getattr(package(f"{namespace}.demos.boring_classes"), name)()


def language_model(where: str, name: str) -> Callable[[str], Any]:
    def make(namespace: str) -> Any:
        demos = package(f"{namespace}.demos.{where}")
        demos.WikiText2 = Tokens  # a test restores it, see `without_download`
        return getattr(demos, name)(vocab_size=TOKENS)

    return make


def sequences(namespace: str) -> DataLoader:
    sampler = importlib.import_module(f"{namespace}.demos.lstm").SequenceSampler(Tokens(), 3)
    return DataLoader(Tokens(), batch_sampler=sampler)


def one_graph() -> Any:
    data = package("torch_geometric.data")
    edges = torch.randint(20, (2, 60), generator=torch.Generator().manual_seed(7))
    graph = data.Data(tensors(20, 6), edges, y=torch.arange(20) % 3)
    graph.train_mask = graph.val_mask = graph.test_mask = torch.arange(20) % 4 > 0
    return graph


def many_graphs() -> list[Any]:
    data = package("torch_geometric.data")
    edges = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])
    return [data.Data(x, edges, y=torch.tensor([i % 3])) for i, x in enumerate(tensors(8, 4, 6))]


def nodes(namespace: str) -> Any:
    lightning = package("torch_geometric.data.lightning")
    return lightning.LightningNodeData(one_graph(), loader="full", pin_memory=False)


def graphs(namespace: str) -> Any:
    lightning = package("torch_geometric.data.lightning")
    found = many_graphs()
    return lightning.LightningDataset(
        found, found[:4], batch_size=3, sampler=SequentialSampler(found), pin_memory=False
    )


def graph_network(namespace: str, per_graph: bool) -> Any:
    models = package("torch_geometric.nn")
    pl = importlib.import_module(namespace)

    class OnGraphs(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"width": 8})
            self.net = models.GAT(6, 8, num_layers=2, out_channels=3, v2=per_graph, heads=2)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            out = self.net(batch.x, batch.edge_index)
            if per_graph:
                out, target = models.global_mean_pool(out, batch.batch), batch.y
            else:
                out, target = out[batch.train_mask], batch.y[batch.train_mask]
            loss = torch.nn.functional.cross_entropy(out, target)
            self.log("loss", loss, batch_size=len(target))
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_nodes", float(batch.num_nodes), batch_size=1)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    return OnGraphs()


def graphgym(namespace: str) -> Any:
    package("yacs")
    gym = package("torch_geometric.graphgym")
    gym.set_cfg(gym.cfg)
    gym.cfg.dataset.task = "graph"
    gym.cfg.dataset.task_type = "classification"
    gym.cfg.gnn.head = "graph"
    gym.cfg.gnn.dim_inner = 8
    gym.cfg.optim.max_epoch = 4
    return gym.create_model(to_device=False, dim_in=6, dim_out=3)


def with_metrics(namespace: str) -> Any:
    metrics = package("torchmetrics")
    pl = importlib.import_module(namespace)

    class Measured(pl.LightningModule):
        """Metrics are submodules, logged as objects; the data parallels a two-headed net."""

        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 12))
            self.head = torch.nn.Linear(12, 3)
            scores = {n: metrics.Accuracy("multiclass", num_classes=3, average=n) for n in AVERAGES}
            self.scores = metrics.MetricCollection(scores, prefix="train_")
            self.mean_loss = metrics.MeanMetric()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            out = self.head(torch.relu(self.body(batch[0])))
            loss = torch.nn.functional.cross_entropy(out, batch[1])
            self.scores.update(out, batch[1])
            self.mean_loss.update(loss.detach())
            self.log_dict(self.scores, on_step=False, on_epoch=True)
            self.log("mean_loss", self.mean_loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=12)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": cycle, "interval": "step"},
            }

    return Measured()


AVERAGES = ("micro", "macro")


def labelled(namespace: str) -> DataLoader:
    return DataLoader(TensorDataset(tensors(12, 8), torch.arange(12) % 3), batch_size=4)


def adversaries(namespace: str) -> Any:
    pl = importlib.import_module(namespace)

    class Adversaries(pl.LightningModule):
        """Two optimisers take turns by the count of steps; an average of one net lies within."""

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.maker = torch.nn.Sequential(
                torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 8)
            )
            self.judge = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(8, 2))
            self.average = copy.deepcopy(self.maker).requires_grad_(False)
            self.register_buffer("averaged", torch.zeros((), dtype=torch.long))

        def configure_optimizers(self) -> Any:
            nets = (self.maker, self.judge)
            optimizers = [torch.optim.AdamW(net.parameters(), 0.01, (0.8, 0.99)) for net in nets]
            decay = torch.optim.lr_scheduler.ExponentialLR
            return optimizers, [decay(optimizer, 0.9) for optimizer in optimizers]

        def training_step(self, batch: Any, batch_idx: int) -> None:
            turn = self.global_step % 2
            optimizer, schedule = self.optimizers()[turn], self.lr_schedulers()[turn]
            made = self.maker(torch.randn(len(batch[0]), 4))
            self.toggle_optimizer(optimizer)
            loss = self.judge(made).mean() * (1 if turn else -1)
            loss = loss - self.judge(batch[0]).mean() if turn else loss
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, 1.0, gradient_clip_algorithm="norm")
            optimizer.step()
            schedule.step()
            self.untoggle_optimizer(optimizer)
            for mean, live in zip(self.average.parameters(), self.maker.parameters(), strict=True):
                mean.lerp_(live.detach(), 0.1)
            self.averaged += 1

    return Adversaries()


def momentum_contrast(namespace: str) -> Any:
    pl = importlib.import_module(namespace)

    class MomentumContrast(pl.LightningModule):
        """A slow twin gives the targets, a queue keeps them, the last layer waits an epoch."""

        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"temperature": 0.1, "slots": 9})
            self.encoder = torch.nn.Sequential(
                torch.nn.Unflatten(1, (2, 4)),
                torch.nn.Conv1d(2, 6, 3),
                torch.nn.Flatten(),
                torch.nn.GELU(),
            )
            self.head = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(12, 8))
            self.slow_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
            self.register_buffer("queue", tensors(self.hparams.slots, 12))
            self.register_buffer("place", torch.zeros((), dtype=torch.long))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            share = 0.9 + 0.1 * self.current_epoch / self.trainer.max_epochs
            pairs = zip(self.slow_encoder.parameters(), self.encoder.parameters(), strict=True)
            for slow, fast in pairs:
                slow.data.mul_(share).add_(fast.data, alpha=1 - share)
            query, keys = self.head(self.encoder(batch[0])), self.slow_encoder(batch[0])
            against = self.head(torch.cat([keys, self.queue])).detach()
            slots = (int(self.place) + torch.arange(len(keys))) % len(self.queue)
            self.queue[slots] = keys
            self.place.add_(len(keys))
            scores = query @ against.T / self.hparams.temperature
            return torch.nn.functional.cross_entropy(scores, torch.arange(len(keys)))

        def on_after_backward(self) -> None:
            if self.current_epoch < 1:
                for parameter in self.head.parameters():
                    parameter.grad = None

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
            slow = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
            both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, slow], [3])
            return [optimizer], [{"scheduler": both, "interval": "step"}]

    return MomentumContrast()


CASES = {
    "BoringModel": Case(boring("BoringModel"), options={"limit_val_batches": 2}),
    "ManualOptimBoringModel": Case(boring("ManualOptimBoringModel"), rewind={"at": "2it"}),
    "DemoModel": Case(boring("DemoModel"), rewind={"epoch": 1, "optimizer": "restored"}),
    "LightningTransformer": Case(
        language_model("transformer", "LightningTransformer"),
        lambda namespace: DataLoader(Tokens(), batch_size=3),
        left_out=("model.embedding.weight",),
        options={"limit_train_batches": 2},
    ),
    "LightningLSTM": Case(
        language_model("lstm", "LightningLSTM"),
        sequences,
        left_out=("model.encoder.weight",),
        options={"limit_train_batches": 2, "gradient_clip_val": 0.25},
    ),
    "GAT on LightningNodeData": Case(
        lambda namespace: graph_network(namespace, per_graph=False),
        nodes,
        left_out=tuple(f"net.convs.{i}.att_{end}" for i in range(2) for end in ("src", "dst")),
        namespaces=PYG,
    ),
    "GATv2 on LightningDataset": Case(
        lambda namespace: graph_network(namespace, per_graph=True),
        graphs,
        left_out=("net.convs.0.att", "net.convs.1.att"),
        namespaces=PYG,
    ),
    "GraphGymModule": Case(graphgym, graphs, namespaces=PYG, says="min_keep=1 holds weights back"),
    "torchmetrics, weight_norm": Case(
        with_metrics,
        labelled,
        left_out=("body.parametrizations.weight.original0",),
        rewind={"epoch": 1},
    ),
    "GAN, turns by the step, average within": Case(
        adversaries,
        labelled,
        left_out=("average.0.weight", "average.2.weight"),
        rewind={"at": "2it", "optimizer": "restored"},
    ),
    "momentum twin, queue, last layer waits": Case(
        momentum_contrast,
        labelled,
        left_out=(
            "head.parametrizations.weight.original0",
            "slow_encoder.1.weight",
        ),
        rewind={"epoch": 1},
    ),
}
