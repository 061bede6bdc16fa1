"""The time of a training step with masks, over the time without, in turns of short fits.

python -m experiments.speed.step
python -m experiments.speed.step --networks lenet --rounds 30
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelPruning
from torch import Tensor, nn
from torch.nn.utils.prune import L1Unstructured, global_unstructured
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from experiments.speed.networks import Classifier, lenet, resnet20
from experiments.speed.ratios import Spread
from experiments.speed.turns import rounds
from ltpl.callbacks import PruneAtEpoch

AMOUNT = 0.8
PLAIN = "no callback"


@dataclass(frozen=True)
class Task:
    """A network, how it is trained, and how long one short fit of it is.

    Args:
        network: Makes the network.
        optimizer: Makes the optimiser from the parameters.
        image: Shape of one image.
        batch: Images a step.
        steps: Steps an epoch. A fit has two epochs; the second is timed.
        rounds: How often every variant is fitted, in turns.
        target: What the ratio with `PruneAtEpoch` shall not exceed.
    """

    network: Callable[[], nn.Module]
    optimizer: Callable[..., Optimizer]
    image: tuple[int, ...]
    batch: int
    steps: int
    rounds: int
    target: float

    def data(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return random images and labels in memory, behind an ordinary loader."""
        count = self.steps * self.batch
        images = torch.randn(count, *self.image)
        return DataLoader(TensorDataset(images, torch.randint(10, (count,))), self.batch)


TASKS = {
    "lenet": Task(lenet, partial(Adam, lr=1.2e-3), (1, 28, 28), 60, 200, 11, 1.10),
    "lenet-fused": Task(
        lenet, partial(Adam, lr=1.2e-3, fused=True), (1, 28, 28), 60, 200, 11, 1.10
    ),
    "resnet20": Task(resnet20, partial(SGD, lr=0.05, momentum=0.9), (3, 32, 32), 128, 8, 7, 1.02),
}


class Clock(Callback):
    """Record whole steps of the last epoch: from the start of one to the start of the next."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == trainer.max_epochs - 1:
            self.starts.append(time.perf_counter())

    def median(self) -> float:
        return statistics.median(b - a for a, b in zip(self.starts, self.starts[1:], strict=False))


def _weights(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(m, "weight") for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def plain(model: nn.Module) -> list[Callback]:
    return []


def ours(model: nn.Module) -> list[Callback]:
    return [PruneAtEpoch(0, AMOUNT)]


def lightnings(model: nn.Module) -> list[Callback]:
    return [
        ModelPruning(
            "l1_unstructured",
            parameters_to_prune=_weights(model),
            amount=AMOUNT,
            apply_pruning=lambda epoch: epoch == 0,
            use_lottery_ticket_hypothesis=False,
        )
    ]


def torchs(model: nn.Module) -> list[Callback]:
    global_unstructured(_weights(model), pruning_method=L1Unstructured, amount=AMOUNT)
    return []


VARIANTS: dict[str, Callable[[nn.Module], list[Callback]]] = {
    PLAIN: plain,
    "`PruneAtEpoch`": ours,
    "Lightning's `ModelPruning`": lightnings,
    "`torch.nn.utils.prune`": torchs,
}


@dataclass(frozen=True)
class Steps:
    """What a step of one network took: milliseconds without masks, ratios with them."""

    network: str
    target: float
    plain: Spread
    ratios: dict[str, Spread]
    disturbed: float

    def json(self) -> dict[str, Any]:
        ratios = {name: ratio.json() for name, ratio in self.ratios.items()}
        return {**vars(self), "plain": self.plain.json(), "ratios": ratios}

    def row(self) -> tuple[str, ...]:
        ratios = [str(ratio) for ratio in self.ratios.values()]
        end = (f"{self.target:.2f}", str(self.plain.n), f"{self.disturbed:.0%}")
        return (self.network, str(self.plain), *ratios, *end)


HEAD = ("network", "plain step, ms", *list(VARIANTS)[1:], "target", "n", "others")


def fit(task: Task, data: DataLoader[Any], prepare: Callable[[nn.Module], list[Callback]]) -> float:
    """Train two short epochs and return the median step of the second, in milliseconds."""
    torch.manual_seed(0)
    model = Classifier(task.network(), task.optimizer)
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[*prepare(model), clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    _must_be_sparse(model, prepare is not plain)
    return 1e3 * clock.median()


def _must_be_sparse(model: nn.Module, sparse: bool) -> None:
    """Stop if a variant did not train what its name says."""
    weights = [getattr(module, name) for module, name in _weights(model)]
    kept = sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)
    assert abs(kept - (1 - AMOUNT if sparse else 1)) < 1e-3, f"{kept:.2%} of the weights are left"


def measure(name: str, count: int | None = None) -> Steps:
    """Fit all variants in turns, the order turned by one each round."""
    task = TASKS[name]
    data = task.data()
    order = list(VARIANTS)

    def once() -> dict[str, float]:
        order.append(order.pop(0))
        return {variant: fit(task, data, VARIANTS[variant]) for variant in order}

    with _quiet():
        times = rounds(once, count or task.rounds)
    ratios = {v: Spread.of_ratios(times[v], times[PLAIN]) for v in VARIANTS if v != PLAIN}
    disturbed = round(max(times["disturbed"]), 3)
    return Steps(name, task.target, Spread.of(times[PLAIN]), ratios, disturbed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's remarks on each of the many fits off the screen."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rounds", type=int, help="how often every variant is fitted")
    options = parser.parse_args()
    print(" | ".join(HEAD))
    for name in options.networks:
        print(" | ".join(measure(name, options.rounds).row()))


if __name__ == "__main__":
    main()
