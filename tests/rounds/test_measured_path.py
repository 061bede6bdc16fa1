"""The path between two networks: measured as the project validates, and nothing else moves."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from small import BATCHES, CLASSES, FEATURES, SIZE, Data, InMemory, OfImages, Small, copied, part
from test_measure import Unvalidated, judged
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ltpl.callbacks import PruneAtEpoch, RewindToEpoch
from ltpl.rounds.experiment import Parts
from ltpl.rounds.path import measure_path
from ltpl.tickets import Snapshot
from ltpl.tickets.path import Point, evenly


class Plain(Small):
    """No BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 10), nn.ReLU(), nn.Dropout(0.2), nn.Linear(10, CLASSES)
        )


class InOrder(Data):
    """Training batches that are always the same."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(part(0), SIZE)


def parts(folder: Path, module: Any, data: Any, package: Any = pl, **options: Any) -> Parts:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    of_trainer = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "enable_checkpointing": False,
        "default_root_dir": folder,
    }
    trainer = package.Trainer(**of_trainer, **quiet | options)
    return Parts(module, data, trainer, PruneAtEpoch(), RewindToEpoch())


def ends(make_model: Callable[[], Any]) -> tuple[Snapshot, Snapshot]:
    """Two networks with statistics of their own."""
    found = []
    for _ in range(2):
        module = make_model()
        for _ in range(3):
            module.net(torch.randn(20, FEATURES))
        found.append(Snapshot.take("end", module))
    return found[0], found[1]


def validated(one: Parts, network: Snapshot) -> tuple[float, float]:
    """Error and loss as Lightning says them."""
    network.restore_weights_(one.module)
    (found,) = one.trainer.validate(one.module, one.data, verbose=False)
    return 1 - found["val_acc"], found["val_loss"]


def errors(point: Point, raw: str = "") -> tuple[float | None, ...]:
    return getattr(point, f"{raw}val_error"), getattr(point, f"{raw}val_loss")


@pytest.mark.parametrize(("make_model", "raw"), [(Plain, ""), (Small, "raw_")])
def test_the_ends_are_the_validated_networks(tmp_path: Path, make_model: Any, raw: str) -> None:
    one = parts(tmp_path, make_model(), Data())
    first, second = ends(make_model)
    points = measure_path(one, first, second, evenly(3))
    assert [point.alpha for point in points] == [0, 0.5, 1]
    assert errors(points[0], raw) == validated(one, first)
    assert errors(points[2], raw) == validated(one, second)


def test_the_middle_is_the_average_of_both_networks(tmp_path: Path) -> None:
    first, second = ends(Plain)
    (point,) = measure_path(parts(tmp_path, Plain(), InOrder()), first, second, [0.5])
    by_hand = Plain()
    for name, weight in by_hand.named_parameters():
        weight.data = (first.weights[name] + second.weights[name]) / 2
    for stage, seed, size in (("train", 0, SIZE), ("val", 1, 12)):
        loss, right = judged_by(by_hand, seed, size)
        assert getattr(point, f"{stage}_loss") == pytest.approx(loss, rel=1e-5)
        assert getattr(point, f"{stage}_error") == pytest.approx(1 - right, abs=1e-6)
    assert point.raw_train_error is point.raw_val_loss is None


def judged_by(module: Any, seed: int, size: int) -> tuple[float, float]:
    module.eval()
    x, y, _ = part(seed).tensors
    with torch.no_grad():
        found = [(module.net(a), b) for a, b in zip(x.split(size), y.split(size), strict=True)]
    losses = [float(cross_entropy(logits, b)) for logits, b in found]
    rights = [float((logits.argmax(1) == b).float().mean()) for logits, b in found]
    return sum(losses) / len(losses), sum(rights) / len(rights)


def test_statistics_are_those_of_a_loop_by_hand(tmp_path: Path) -> None:
    first, second = ends(Small)
    (point,) = measure_path(parts(tmp_path, Small(), InOrder()), first, second, [0.5])
    by_hand = Small().eval()
    for name, weight in by_hand.named_parameters():
        weight.data = (first.weights[name] + second.weights[name]) / 2
    batches = part(0).tensors[0].split(SIZE)
    with torch.no_grad():
        hidden = [by_hand.net[0](x) for x in batches]
    norm = by_hand.net[1]
    norm.running_mean = sum(h.mean(0) for h in hidden) / BATCHES
    norm.running_var = sum(h.var(0) for h in hidden) / BATCHES
    for stage, seed, size in (("train", 0, SIZE), ("val", 1, 12)):
        loss, right = judged_by(by_hand, seed, size)
        assert getattr(point, f"{stage}_loss") == pytest.approx(loss, rel=1e-4)
        assert getattr(point, f"{stage}_error") == pytest.approx(1 - right, abs=1e-6)
    assert point.raw_val_loss != pytest.approx(point.val_loss, rel=1e-3)


class Frozen(Small):
    """Keeps its statistics, as fine-tuning of a pretrained network does."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.net[1].eval()
        return self


def test_frozen_statistics_stay(tmp_path: Path) -> None:
    first, second = ends(Small)
    one = parts(tmp_path, Frozen(), InOrder())
    points = measure_path(one, first, second, [0, 1])
    assert errors(points[0]) == validated(one, first)
    assert points[0].raw_val_loss is None


@pytest.mark.parametrize("make_model", [Plain, Small])
def test_a_network_is_stable_to_itself(tmp_path: Path, make_model: Any) -> None:
    first, _ = ends(make_model)
    points = measure_path(parts(tmp_path, make_model(), Data()), first, first, evenly(4))
    assert len({errors(point) for point in points}) == 1
    assert len({errors(point, "raw_") for point in points}) == 1
    assert len({(point.train_error, point.raw_train_error) for point in points}) == 1
    assert (points[0].raw_train_error is None) == (make_model is Plain)
    assert (points[0].raw_val_error is None) == (make_model is Plain)


def test_training_data_are_measured_without_augmentation(tmp_path: Path) -> None:
    module = OfImages()
    of = Snapshot.take("end", module)
    data = InMemory()
    points = measure_path(parts(tmp_path, module, data), of, of, [0, 1])
    loss, right = judged(plain(of), 0)
    assert points[0].raw_train_loss == pytest.approx(loss, rel=1e-5)
    assert points[0].raw_train_error == pytest.approx(1 - right, abs=1e-6)
    assert data.train_dataloader().augment


def plain(of: Snapshot) -> dict[str, torch.Tensor]:
    """The weights of `OfImages` under the names of `Small`, which has no layer to flatten."""
    names = {f"net.{layer + 1}": f"net.{layer}" for layer in range(5)}
    return {names[n[:5]] + n[5:]: value for n, value in (of.weights | of.buffers).items()}


def random_states() -> tuple[Any, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


class Heard(pl.loggers.CSVLogger):
    """Notes whatever is logged."""

    lines: list[Any]

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.lines.append(metrics)


class InPlace(Small):
    """Works on its batch in place, and draws."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        batch[0].mul_(0.5).add_(0 * torch.randn(1))
        assert self.logger.experiment is not None
        super().validation_step(batch, batch_idx)


def test_a_trained_round_is_left_as_it_was(tmp_path: Path) -> None:
    heard = Heard(tmp_path)
    heard.lines = []
    module = InPlace()
    one = parts(tmp_path, module, Data(), logger=heard, log_every_n_steps=1)
    one.trainer.fit(module, one.data)
    module.net[0].eval()
    first, second = ends(InPlace)
    before, states, steps = copied(module), random_states(), one.trainer.global_step
    modes = [inner.training for inner in module.modules()]
    lines, callbacks = len(heard.lines), one.trainer.callbacks
    points = measure_path(one, first, second, evenly(3))
    after = copied(module)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert random_states() == states
    assert modes == [inner.training for inner in module.modules()]
    assert module.net[1].momentum == 0.1
    assert (len(heard.lines), one.trainer.callbacks) == (lines, callbacks)
    assert (one.trainer.global_step, one.trainer.loggers) == (steps, [heard])
    assert not {"val_dataloader", "setup", "prepare_data"} & vars(one.data).keys()
    torch.rand(1)  # a round that is resumed has another past
    assert measure_path(one, first, second, evenly(3)) == points


def test_an_average_of_the_network_does_not_step_in(tmp_path: Path) -> None:
    module = Plain()
    one = parts(tmp_path, module, Data(), callbacks=[EMAWeightAveraging(decay=0.5)])
    one.trainer.fit(module, one.data)
    first, second = ends(Plain)
    points = measure_path(one, first, second, [0, 1])
    alone = parts(tmp_path, Plain(), Data())
    assert [errors(p) for p in points] == [validated(alone, first), validated(alone, second)]


class Split(Data):
    """Another split each time it is set up."""

    def setup(self, stage: str) -> None:
        self.seed = int(torch.randint(10**6, ()))

    def val_dataloader(self) -> DataLoader:
        return DataLoader(part(self.seed), 12)


def test_data_that_draw_their_split_are_measured_on_that_of_the_training(tmp_path: Path) -> None:
    module, data = Plain(), Split()
    one = parts(tmp_path, module, data)
    one.trainer.fit(module, data)
    of, seed = Snapshot.take("end", module), data.seed
    points = measure_path(one, of, of, [0, 1])
    loss, _ = judged_by(module, seed, 12)
    assert points[0].val_loss == points[1].val_loss == pytest.approx(loss, rel=1e-5)


class Several(Data):
    def train_dataloader(self) -> Any:
        return {"a": super().train_dataloader(), "b": super().train_dataloader()}


class Brings(Plain):
    """Data of its own."""

    def train_dataloader(self) -> DataLoader:
        return Data().train_dataloader()

    def val_dataloader(self) -> DataLoader:
        return Data().val_dataloader()


def test_what_cannot_be_measured_is_left_out(tmp_path: Path) -> None:
    first, second = ends(Small)
    (point,) = measure_path(parts(tmp_path, Small(), Several()), first, second, [0.5])
    assert (point.raw_train_loss, point.val_loss) == (None, None)
    assert point.raw_val_loss is not None
    one = parts(tmp_path, Unvalidated(), Data())
    assert measure_path(one, first, second, [0, 1]) == [Point(0), Point(1)]


def test_a_module_may_bring_its_data(tmp_path: Path) -> None:
    first, second = ends(Plain)
    points = measure_path(parts(tmp_path, Brings(), None), first, second, [0, 1])
    one = parts(tmp_path, Plain(), Data())
    assert [errors(p) for p in points] == [validated(one, first), validated(one, second)]
    assert all(point.train_loss is not None for point in points)


def test_metrics_are_those_that_are_asked_for(tmp_path: Path) -> None:
    first, second = ends(Plain)
    one = parts(tmp_path, Plain(), Data())
    (point,) = measure_path(one, first, second, [0], monitor="val_acc", accuracy="loss")
    error, loss = validated(one, first)
    assert point.val_loss == pytest.approx(1 - error)
    assert point.val_error == pytest.approx(1 - loss)
    with pytest.raises(ValueError, match="monitor='loss' is not known"):
        measure_path(one, first, second, [0], monitor="loss")


def test_a_trainer_of_the_other_package_measures_the_same(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Other(lightning.LightningModule):
        _judge, validation_step = Small._judge, Small.validation_step

        def __init__(self) -> None:
            super().__init__()
            self.net = Plain().net

        def val_dataloader(self) -> DataLoader:
            return Data().val_dataloader()

        def train_dataloader(self) -> DataLoader:
            return InOrder().train_dataloader()

    first, second = ends(Plain)
    logger = lightning.loggers.CSVLogger(tmp_path)
    one = parts(tmp_path, Other(), None, lightning, logger=logger)
    same = measure_path(parts(tmp_path, Plain(), InOrder()), first, second, evenly(3))
    assert measure_path(one, first, second, evenly(3)) == same
    assert not list(tmp_path.rglob("metrics.csv"))


def test_of_a_graph_the_training_nodes_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("torch_geometric")
    from ltpl.data import KarateClub
    from ltpl.models import GCN
    from ltpl.modules import NodeClassifier

    data = KarateClub()
    data.setup("fit")
    module = NodeClassifier(GCN(inputs=34, outputs=4))
    of = Snapshot.take("end", module)
    one = parts(tmp_path, module, data, log_every_n_steps=1)
    points = measure_path(one, of, of, [0, 1])
    graph = data.graph
    with torch.no_grad():
        logits = module.eval()(graph)
    for mask, error in (
        (graph.train_mask, points[0].train_error),
        (graph.val_mask, points[0].val_error),
    ):
        right = (logits[mask].argmax(1) == graph.y[mask]).float().mean()
        assert error == pytest.approx(1 - float(right), abs=1e-6)
