"""Where teachers come from, what they see, and what of them is remembered."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from distill import ByHand, equal
from pytorch_lightning.callbacks import Checkpoint
from shrink import convolutional, images
from tiny import BATCHES, EPOCHS, Resumable, Tiny, dataset, loader, network, trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

import ltpl
from ltpl.callbacks import (
    CompactAfterPruning,
    Distillation,
    NetworkSlimming,
    PruneAtEpoch,
    RewindToEpoch,
)
from ltpl.masks import Mask
from ltpl.tickets import Snapshot
from ltpl.tickets.weights import load_weights_

SGD = partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-2)


@pytest.fixture
def teacher(tmp_path: Path) -> Tiny:
    """A trained module, in every kind of file."""
    module = Tiny()
    run = trainer(tmp_path, [], max_epochs=1)
    run.fit(module, loader())
    run.save_checkpoint(tmp_path / "trained.ckpt")
    torch.save(module.net.state_dict(), tmp_path / "network.pt")
    (tmp_path / "round").mkdir()
    Snapshot.take("end", module).save(tmp_path / "round" / "final.safetensors")
    compiled: Any = torch.compile(module.net)
    run = trainer(tmp_path, [], max_epochs=0)
    run.fit(Tiny(compiled), loader())
    run.save_checkpoint(tmp_path / "compiled.ckpt")
    return module


FILES = ["trained.ckpt", "network.pt", "round", "round/final.safetensors", "compiled.ckpt"]


@pytest.mark.parametrize("file", [*FILES, "as a path"])
def test_a_file_teaches_as_the_network_in_it(file: str, teacher: Tiny, tmp_path: Path) -> None:
    given = tmp_path / "trained.ckpt" if file == "as a path" else str(tmp_path / file)
    net = network()
    twin = copy.deepcopy(net)
    trainer(tmp_path, [Distillation(given, temperature=3.0, alpha=0.3)]).fit(
        Tiny(net, SGD), loader()
    )
    assert equal(net, ByHand(twin, teacher.net, SGD(twin.parameters(), lr=0.1)).fit())


def test_a_network_of_another_architecture(tmp_path: Path) -> None:
    big = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 3))
    run = trainer(tmp_path, [], max_epochs=1)
    run.fit(Tiny(big), loader())
    run.save_checkpoint(tmp_path / "big.ckpt")
    empty = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 3))
    net = network()
    twin = copy.deepcopy(net)
    distillation = Distillation(tmp_path / "big.ckpt", network=empty, temperature=3.0, alpha=0.3)
    trainer(tmp_path, [distillation]).fit(Tiny(net, SGD), loader())
    assert equal(net, ByHand(twin, big, SGD(twin.parameters(), lr=0.1)).fit())


def test_a_lightning_module_teaches_with_its_network(teacher: Tiny, tmp_path: Path) -> None:
    net = network()
    twin = copy.deepcopy(net)
    trainer(tmp_path, [Distillation(teacher, temperature=3.0, alpha=0.3)]).fit(
        Tiny(net, SGD), loader()
    )
    assert equal(net, ByHand(twin, teacher.net, SGD(twin.parameters(), lr=0.1)).fit())


def test_a_compacted_network_brings_its_own_architecture(tmp_path: Path) -> None:
    x = images().tensors[0]
    dense = convolutional().eval()
    keep = torch.tensor([True, False] * 4)
    mask = Mask({"1.weight": keep, "1.bias": keep})
    mask.apply_(dense)
    small = ltpl.compact(dense, mask, x)
    ltpl.save(small, tmp_path / "small")
    distillation = Distillation(tmp_path / "small", network=convolutional(), temperature=1.0)
    run = trainer(tmp_path, [distillation], max_epochs=1)
    student = convolutional()
    start = copy.deepcopy(student)
    run.fit(Tiny(student), DataLoader(images(), len(x)))
    p, q = small.eval()(x).softmax(1), start(x).softmax(1)
    kd = (p * (p / q).log()).sum(1).mean().detach()
    assert float(run.callback_metrics["distill/kd"]) == pytest.approx(float(kd), rel=1e-3)


def test_files_that_do_not_fit_are_one_clear_line(teacher: Tiny, tmp_path: Path) -> None:
    other = nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 3))
    given = str(tmp_path / "trained.ckpt")
    with pytest.raises(
        ValueError, match=r"does not fit Sequential: .*0\.weight is \(16, 8\)"
    ) as told:
        trainer(tmp_path, [Distillation(given)]).fit(Tiny(other), loader())
    assert "\n" not in str(told.value)
    deeper = nn.Sequential(*network(), nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"it has no net\.5\.weight"):
        trainer(tmp_path, [Distillation(given)]).fit(Tiny(deeper), loader())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="is no finished round: it has no final"):
        trainer(tmp_path, [Distillation(tmp_path / "empty")]).fit(Tiny(), loader())


class Runs:
    def __reduce__(self) -> Any:
        return (Path("/tmp/ltpl-was-run").touch, ())


def test_loading_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "bad.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": Runs()}))
    with pytest.raises(ValueError, match="no checkpoint that can be read safely"):
        load_weights_(network(), path)
    assert not Path("/tmp/ltpl-was-run").exists()


def test_two_networks_alike_are_told_apart_by_the_name_of_the_student(tmp_path: Path) -> None:
    both = nn.ModuleDict({"net": network(), "other": network()})
    torch.save(both.state_dict(), tmp_path / "both.pt")
    found = network()
    load_weights_(found, tmp_path / "both.pt", "other.")
    assert equal(found, both["other"].state_dict())
    with pytest.raises(ValueError, match=r"holds several networks like Sequential: net\., other\."):
        load_weights_(found, tmp_path / "both.pt", "third.")


def test_tied_weights_are_found_under_either_name(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].weight = net[0].weight
        return net

    one, other = tied(), tied()
    Snapshot.take("end", one).save(tmp_path / "one.safetensors")  # stores it once
    load_weights_(other, tmp_path / "one.safetensors")
    assert equal(other, one.state_dict())


def test_the_teacher_is_nobodys_submodule(teacher: Tiny, tmp_path: Path) -> None:
    module = Tiny()
    names, count = set(module.state_dict()), len(list(module.parameters()))
    before = copy.deepcopy(teacher.net.state_dict())
    teacher.net.train()
    run = trainer(tmp_path, [Distillation(teacher.net)], max_epochs=2)
    run.fit(module, loader())
    run.save_checkpoint(tmp_path / "student.ckpt")
    content = torch.load(tmp_path / "student.ckpt", weights_only=True)
    assert set(content["state_dict"]) == names
    assert len(list(module.parameters())) == count
    held = [p for o in run.optimizers for g in o.param_groups for p in g["params"]]
    assert not {id(p) for p in held} & {id(p) for p in teacher.net.parameters()}
    assert all(p.grad is None for p in teacher.net.parameters())
    # in evaluation mode: its statistics have seen nothing
    assert equal(teacher.net, before)


def test_a_teacher_that_somebody_sets_to_train_answers_in_evaluation_mode(tmp_path: Path) -> None:
    class Holds(Tiny):
        def __init__(self, teacher: nn.Module) -> None:
            super().__init__()
            self.theirs = teacher  # so that train() reaches it

    teacher = network().requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    module = Holds(teacher)
    trainer(tmp_path, [Distillation(teacher)], max_epochs=2).fit(module, loader())
    assert equal(teacher, before)


def test_the_teacher_runs_under_the_same_autocast(tmp_path: Path) -> None:
    kinds = []

    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x)
            kinds.append((out.dtype, torch.is_grad_enabled(), self.training))
            return out

    for precision in ("bf16-mixed", "32-true", "bf16-true"):
        options = {"precision": precision, "max_epochs": 1}
        data = DataLoader(dataset(), 10)
        trainer(tmp_path, [Distillation(Notes())], **options).fit(Tiny(), data)
    halves = [(torch.bfloat16, False, False)] * BATCHES
    assert kinds == halves + [(torch.float32, False, False)] * BATCHES + halves


def averaged(net: nn.Module, decay: float) -> Any:
    return torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    )


def test_an_average_of_the_student_teaches(tmp_path: Path) -> None:
    net = network(norm=False)
    twin = copy.deepcopy(net)
    trainer(tmp_path, [Distillation("ema", decay=0.8, temperature=1.0)]).fit(Tiny(net), loader())
    average = averaged(twin, 0.8)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(EPOCHS):
        for x, y in loader():
            z, goal = twin(x), average(x).detach().log_softmax(1)
            kd = nn.functional.kl_div(
                z.log_softmax(1), goal, reduction="batchmean", log_target=True
            )
            optimizer.zero_grad()
            (0.5 * cross_entropy(z, y) + 0.5 * kd).backward()
            optimizer.step()
            average.update_parameters(twin)
    assert equal(net, twin.state_dict())


def test_a_pruned_student_has_a_pruned_average(tmp_path: Path) -> None:
    distillation = Distillation("ema", decay=0.9)
    prune = PruneAtEpoch(epochs=2, amount=0.5)
    module = Tiny()
    trainer(tmp_path, [prune, RewindToEpoch(0), distillation]).fit(module, loader())
    assert prune.mask is not None
    average = distillation.average
    assert average is not None
    parameters = dict(average.module.named_parameters())
    for name, keep in prune.mask.items():
        assert not parameters[name.removeprefix("net.")][~keep].count_nonzero()


class Saver(Checkpoint):
    """Saves after each batch and each epoch, as `ModelCheckpoint` may."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.folder / f"epoch={trainer.current_epoch}.ckpt")


@pytest.mark.parametrize("kind", ["ema", "file"])
def test_a_resumed_fit_has_the_same_bits(kind: str, tmp_path: Path, teacher: Tiny) -> None:
    given = "ema" if kind == "ema" else tmp_path / "trained.ckpt"
    start = network()

    def train(**options: Any) -> Any:
        module = Tiny(copy.deepcopy(start), SGD)
        callbacks = [Distillation(given, decay=0.9), PruneAtEpoch(epochs=2, amount=0.3)]
        saver = Saver(tmp_path / ("again" if options else "whole"))
        run = trainer(tmp_path, [*callbacks, saver], enable_checkpointing=True)
        run.fit(module, Resumable(dataset(), batch_size=10), weights_only=True, **options)
        return run

    whole = train()
    for point in (f"step={BATCHES + 4}", f"step={2 * BATCHES}", "epoch=1", "epoch=2"):
        again = train(ckpt_path=tmp_path / "whole" / f"{point}.ckpt")
        assert equal(again.lightning_module, whole.lightning_module.state_dict())
        for name in ("distill/kd", "distill/agreement", "distill/ce"):
            found, expected = (float(run.callback_metrics[name]) for run in (again, whole))
            assert found == pytest.approx(expected, rel=1e-6)


def test_the_dense_network_teaches_the_compacted_one(tmp_path: Path) -> None:
    dense = Tiny(convolutional())
    run = trainer(tmp_path, [], max_epochs=1)
    run.fit(dense, DataLoader(images(), 5))
    run.save_checkpoint(tmp_path / "dense.ckpt")
    start = convolutional()

    def train(**options: Any) -> Any:
        module = Tiny(copy.deepcopy(start))
        slim = NetworkSlimming(amount=0.3, epoch=1)
        callbacks = [slim, CompactAfterPruning(), Distillation(tmp_path / "dense.ckpt")]
        saver = Saver(tmp_path / ("again" if options else "whole"))
        run = trainer(tmp_path, [*callbacks, saver], max_epochs=3, enable_checkpointing=True)
        run.fit(module, DataLoader(images(), 5), weights_only=True, **options)
        return run

    whole = train()
    sizes = [sum(p.numel() for p in m.parameters()) for m in (whole.lightning_module, dense)]
    assert sizes[0] < sizes[1]
    again = train(ckpt_path=tmp_path / "whole" / "epoch=1.ckpt")
    assert again.callback_metrics["distill/kd"] == whole.callback_metrics["distill/kd"] > 0


class Asked(nn.Module):
    """A teacher that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network(norm=False)
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        out: Tensor = self.body(x)
        return out


def test_answers_are_kept_by_sample_however_they_are_shuffled(tmp_path: Path) -> None:
    teacher = Asked()
    data = DataLoader(dataset(), 7, shuffle=True)
    trainer(tmp_path, [Distillation(teacher, cache=True)]).fit(Tiny(), data)
    samples = len(dataset())
    assert samples <= teacher.rows <= samples + 7  # the first batch is looked at in halves


class Augmented(Dataset):
    def __len__(self) -> int:
        return len(dataset())

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = dataset()[index]
        return x + 0.1 * torch.randn_like(x), y


def test_augmented_data_are_refused_as_soon_as_they_come_again(tmp_path: Path) -> None:
    run = trainer(tmp_path, [Distillation(network(), cache=True)])
    with pytest.raises(ValueError, match="10 of 10 samples were not seen in the epochs before"):
        run.fit(Tiny(), DataLoader(Augmented(), 10))
    assert run.global_step == BATCHES


def test_a_teacher_that_looks_across_the_batch_is_refused(tmp_path: Path) -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network(norm=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x - x.mean(0))
            return out

    with pytest.raises(ValueError, match="depends on the other samples"):
        trainer(tmp_path, [Distillation(Centred(), cache=True)]).fit(Tiny(), loader())


def test_the_same_tensors_are_answered_from_memory_and_changed_ones_anew(tmp_path: Path) -> None:
    batch = tuple(dataset().tensors)

    class Whole(Tiny):
        def train_dataloader(self) -> Any:
            return DataLoader([batch], batch_size=None)

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 3:
                batch[0].mul_(0.5)

    teacher = Asked()
    trainer(tmp_path, [Distillation(teacher)]).fit(Whole())
    assert teacher.rows == 2 * len(dataset())
    teacher = Asked()
    trainer(tmp_path, [Distillation(teacher, cache=False)]).fit(Whole())
    assert teacher.rows == EPOCHS * len(dataset())


def test_without_being_asked_nothing_is_kept_of_batches(tmp_path: Path) -> None:
    teacher = Asked()
    trainer(tmp_path, [Distillation(teacher)]).fit(
        Tiny(), DataLoader(TensorDataset(*dataset().tensors), 10)
    )
    assert teacher.rows == EPOCHS * len(dataset())
