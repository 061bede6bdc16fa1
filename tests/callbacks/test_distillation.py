"""The loss of `Distillation`, in every way to train, against a script in plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import processes
import pytest
import pytorch_lightning as pl
import torch
from distill import ALPHA, TEMPERATURE, ByHand, equal
from tiny import BATCHES, EPOCHS, Tiny, TwoOptimizers, Validated, dataset, loader, network, trainer
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    normalize,
)
from torch.utils.data import DataLoader, TensorDataset

from ltpl.callbacks import Distillation

SGD = partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-2)
COMPILING = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


def single() -> DataLoader:
    """One batch."""
    return DataLoader(TensorDataset(*dataset()[:10]), 10)


class InADict(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        return {"loss": super().training_step(batch, batch_idx), "other": 1}


class Wrapped(Tiny):
    def __init__(self, net: nn.Module, *args: Any, **kwargs: Any) -> None:
        compiled: Any = torch.compile(net, backend="aot_eager")
        super().__init__(compiled, *args, **kwargs)


class InPlace(Tiny):
    def configure_model(self) -> None:
        self.net.compile(backend="aot_eager")


@dataclass
class Cell:
    module: Callable[..., Any] = Tiny
    options: dict[str, Any] = field(default_factory=dict)
    by_hand: dict[str, Any] = field(default_factory=dict)
    distill: dict[str, Any] = field(default_factory=dict)
    backend: str | None = None


CELLS = {
    "plain": Cell(),
    "a dictionary is returned": Cell(module=InADict),
    "accumulation": Cell(options={"accumulate_grad_batches": 4}, by_hand={"accumulate": 4}),
    "clip by norm": Cell(options={"gradient_clip_val": 0.05}, by_hand={"clip_norm": 0.05}),
    "clip by value": Cell(
        options={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        by_hand={"clip_value": 0.01},
    ),
    "bf16-mixed": Cell(options={"precision": "bf16-mixed"}, by_hand={"autocast": torch.bfloat16}),
    "bf16, accumulated and clipped": Cell(
        options={
            "precision": "bf16-mixed",
            "accumulate_grad_batches": 2,
            "gradient_clip_val": 0.05,
        },
        by_hand={"autocast": torch.bfloat16, "accumulate": 2, "clip_norm": 0.05},
    ),
    "the module is compiled": Cell(backend="eager"),
    "the module is compiled, and lowered": Cell(backend="aot_eager"),
    "the network is compiled": Cell(module=Wrapped),
    "the network is compiled in place": Cell(module=InPlace),
    "schedules": Cell(
        distill={"alpha": {1: 0.9, 3: 0.1}, "temperature": {0: 4.0, 4: 2.0}},
        by_hand={
            "alpha": lambda epoch: (0.9, 0.9, 0.5, 0.1, 0.1)[epoch],
            "temperature": lambda epoch: (4.0, 3.5, 3.0, 2.5, 2.0)[epoch],
        },
    ),
    "alpha 1": Cell(distill={"alpha": 1.0}, by_hand={"alpha": lambda epoch: 1.0}),
    "mse": Cell(
        distill={"loss": "mse"},
        by_hand={"divergence": lambda z, goal, t: mse_loss(z, goal), "scale": False},
    ),
    "answers are kept by sample": Cell(distill={"cache": True}),
    "nothing is kept": Cell(distill={"cache": False}),
}
cells = pytest.mark.parametrize("name", [pytest.param(name, marks=COMPILING) for name in CELLS])


def by_callback(cell: Cell, net: nn.Module, teacher: Any, folder: Path) -> Any:
    given = {"temperature": TEMPERATURE, "alpha": ALPHA, **cell.distill}
    module = cell.module(net, SGD)
    fitted = module if cell.backend is None else torch.compile(module, backend=cell.backend)
    run = trainer(folder, [Distillation(teacher, **given)], **cell.options)
    run.fit(fitted, loader())
    return module


@cells
def test_the_bits_are_those_of_a_script_in_plain_torch(name: str, tmp_path: Path) -> None:
    cell, net, teacher = CELLS[name], network(), network()
    twin, plain = copy.deepcopy(net), copy.deepcopy(net)
    by_callback(cell, net, copy.deepcopy(teacher), tmp_path)
    script = ByHand(twin, teacher, SGD(twin.parameters(), lr=0.1), **cell.by_hand)
    expected = script.fit()
    if cell.backend == "aot_eager":  # gradients of the loss are other sums there
        for key, value in net.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)
    else:
        assert equal(net, expected)
    hard = ByHand(plain, teacher, SGD(plain.parameters(), lr=0.1), **cell.by_hand)
    hard.alpha = lambda epoch: 0.0
    assert not equal(net, hard.fit())


@pytest.mark.slow
def test_two_processes_train_as_one_script(tmp_path: Path) -> None:
    processes.run("distill_two_processes.py", tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    expected = torch.load(tmp_path / "by_hand.pt", weights_only=True)
    for name, value in expected.items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        assert torch.equal(ranks[0][name], value)


class YesOrNo(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return binary_cross_entropy_with_logits(self.net(batch[0]), batch[1])


def bernoulli(z: Tensor, goal: Tensor, temperature: float) -> Tensor:
    """KL by its definition, in float64."""
    p, q = ((x.double() / temperature).sigmoid() for x in (goal, z))
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()


@pytest.mark.parametrize("outputs", [1, 3])
def test_yes_or_no_outputs(outputs: int, tmp_path: Path) -> None:
    net, teacher = (nn.Sequential(nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, outputs)) for _ in "12")
    twin = copy.deepcopy(net)
    x, y = dataset().tensors
    data = TensorDataset(x, (y[:, None] >= torch.arange(outputs)).float())
    batches = DataLoader(data, 10)
    distillation = Distillation(teacher, temperature=3.0, binary=None if outputs == 1 else True)
    run = trainer(tmp_path, [distillation], precision="64-true")
    run.fit(YesOrNo(net), DataLoader(TensorDataset(x.double(), data.tensors[1].double()), 10))
    script = ByHand(
        twin.double(),
        teacher.double(),
        torch.optim.SGD(twin.parameters(), lr=0.1),
        alpha=lambda epoch: 0.5,
        divergence=bernoulli,
        own=binary_cross_entropy_with_logits,
        batches=[(a.double(), b.double()) for a, b in batches],
    )
    for name, value in script.fit().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    hits = ((teacher(x.double()) > 0) == (data.tensors[1] > 0.5)).double().mean()
    assert float(run.callback_metrics["distill/teacher_top1"]) == pytest.approx(float(hits))


class Pixels(Tiny):
    """Classes in dimension 1, places behind them; some labels are unknown."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1], ignore_index=-100)


def test_each_pixel_has_classes(tmp_path: Path) -> None:
    net, teacher = (nn.Conv2d(2, 3, 3, padding=1) for _ in "12")
    x, y = torch.randn(6, 2, 4, 5), torch.randint(3, (6, 4, 5))
    y[:, 0] = -100
    start = copy.deepcopy(net)
    run = trainer(tmp_path, [Distillation(teacher, temperature=2.0)], max_epochs=1)
    run.fit(Pixels(net), DataLoader(TensorDataset(x, y), 6))
    z, goal = start(x), teacher(x)
    rows = [(logits / 2).softmax(1).movedim(1, -1).reshape(-1, 3) for logits in (goal, z)]
    kd = (rows[0] * (rows[0] / rows[1]).log()).sum(1).mean()
    assert float(run.callback_metrics["distill/kd"]) == pytest.approx(float(kd.detach()), rel=1e-4)
    hits = (goal.argmax(1) == y)[y >= 0].float().mean()
    assert float(run.callback_metrics["distill/teacher_top1"]) == pytest.approx(float(hits))


def test_small_probabilities_survive_half_precision(tmp_path: Path) -> None:
    class Far(nn.Module):
        def __init__(self, first: float) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([first, 0.0, -9.0]))

        def forward(self, x: Tensor) -> Tensor:
            return (self.logits + 0 * x.sum()).expand(len(x), 3).to(torch.bfloat16)

    run = trainer(
        tmp_path, [Distillation(Far(9.0), temperature=1.0)], precision="bf16-mixed", max_epochs=1
    )
    run.fit(Tiny(Far(8.0), lr=0.0), loader())
    p, q = (torch.tensor([x, 0.0, -9.0]).softmax(0) for x in (9.0, 8.0))
    exact = float((p * (p / q).log()).sum())
    assert float(run.callback_metrics["distill/kd"]) == pytest.approx(exact, rel=1e-3)


LAYERS = ["1", "2 -> 2"]


def test_hidden_features_follow_those_of_the_teacher(tmp_path: Path) -> None:
    net, teacher = network(), network()
    twin = copy.deepcopy(net)
    module = Tiny(net)
    distillation = Distillation(teacher, hidden=LAYERS, hidden_weight=0.7, alpha=0.5)
    run = trainer(tmp_path, [distillation], max_epochs=1)
    run.fit(module, single())
    x, y = next(iter(loader()))
    first = twin[:2](x)
    second = twin[2](first)
    teacher.eval()
    with torch.no_grad():
        goals = teacher[:2](x), teacher[:3](x)
        soft = (teacher(x) / 4).softmax(1)
    z = twin[3:](second)
    kd = (soft * (soft.log() - (z / 4).log_softmax(1))).sum(1).mean()
    loss = 0.5 * cross_entropy(z, y) + 0.5 * 16 * kd
    matched = mse_loss(first, goals[0]) + mse_loss(second, goals[1])
    (loss + 0.7 * matched).backward()
    for name, parameter in twin.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(dict(net.named_parameters())[name], expected)
    assert float(run.callback_metrics["distill/hidden"]) == pytest.approx(
        float(matched.detach()), rel=1e-4
    )


def images(channels: int) -> nn.Sequential:
    body = nn.Conv2d(2, channels, 3), nn.ReLU()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(9 * channels, 3))


def test_attention_is_where_features_are_large_whatever_the_channels(tmp_path: Path) -> None:
    x, y = torch.randn(6, 2, 5, 5), torch.randint(3, (6,))
    net, teacher = images(4), images(7)
    start = copy.deepcopy(net)
    distillation = Distillation(teacher, attention="1", attention_weight=5.0, alpha=0.0)
    run = trainer(tmp_path, [distillation], max_epochs=1)
    run.fit(Tiny(net), DataLoader(TensorDataset(x, y), 6))
    maps = [normalize(part[:2](x).pow(2).mean(1).view(6, -1)) for part in (start, teacher)]
    distance = (maps[0] - maps[1].detach()).pow(2).mean()
    (cross_entropy(start(x), y) + 5.0 * distance).backward()
    for name, parameter in start.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(dict(net.named_parameters())[name], expected)
    assert float(run.callback_metrics["distill/attention"]) == pytest.approx(
        float(distance.detach())
    )


def test_what_is_logged_and_that_validation_stays_plain(tmp_path: Path) -> None:
    net, teacher = network(), network()
    twin = copy.deepcopy(net)
    run = trainer(tmp_path, [Distillation(teacher, alpha=0.0)])
    run.fit(Validated(net), loader(), loader(1))
    plain = trainer(tmp_path, [])
    plain.fit(Validated(twin), loader(), loader(1))
    assert equal(net, twin.state_dict())
    values = run.callback_metrics
    assert values["val_loss"] == plain.callback_metrics["val_loss"]
    x, y = dataset(1).tensors
    teacher.eval()
    net.eval()
    decisions, goals = net(x).argmax(1), teacher(x).argmax(1)
    agree = float((decisions == goals).float().mean())
    assert float(values["distill/val_agreement"]) == pytest.approx(agree)
    hits = float((goals == y).float().mean())
    assert float(values["distill/val_teacher_top1"]) == pytest.approx(hits)
    assert {"distill/ce", "distill/kd", "distill/agreement", "distill/teacher_top1"} <= set(values)
    assert (values["distill/alpha"], values["distill/temperature"]) == (0.0, 4.0)


def test_validation_is_not_compared_if_it_shall_not(tmp_path: Path) -> None:
    run = trainer(tmp_path, [Distillation(network(), validate=False)], max_epochs=1)
    run.fit(Validated(), loader(), loader(1))
    assert "distill/val_agreement" not in run.callback_metrics


def test_the_module_is_given_back_as_it_was(tmp_path: Path) -> None:
    module, teacher = Tiny(), network()
    run = trainer(tmp_path, [Distillation(teacher)], max_epochs=1)
    run.fit(module, loader())
    assert "training_step" not in vars(module)
    assert "validation_step" not in vars(module)
    for net in (module.net, teacher):
        hooks = (net._forward_hooks, net._forward_pre_hooks)
        assert not any(hooks)


def test_after_an_error_too(tmp_path: Path) -> None:
    class Breaks(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise RuntimeError("a mistake of theirs")

    module = Breaks()
    with pytest.raises(RuntimeError, match="a mistake of theirs"):
        trainer(tmp_path, [Distillation(network())]).fit(module, loader())
    assert "training_step" not in vars(module)
    assert not module.net._forward_hooks


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_that_is_left_out_stays_out(tmp_path: Path) -> None:
    class Never(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            super().training_step(batch, batch_idx)

    net = network(norm=False)
    start = copy.deepcopy(net.state_dict())
    trainer(tmp_path, [Distillation(network())], max_epochs=1).fit(Never(net), loader())
    assert equal(net, start)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_that_is_left_out_is_not_counted(tmp_path: Path) -> None:
    class OnlyFirst(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            return None if batch_idx else super().training_step(batch, batch_idx)

    distillation = Distillation(network())
    added: list[Any] = []
    distillation._means.add = added.append  # type: ignore[method-assign]
    trainer(tmp_path, [distillation], max_epochs=1).fit(OnlyFirst(), loader())
    assert [bool(shares) for shares in added] == [True] + [False] * (BATCHES - 1)


def test_a_network_that_is_called_twice_in_a_step_learns_from_both(tmp_path: Path) -> None:
    class TwoViews(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return cross_entropy(self.net(x), y) + cross_entropy(self.net(-x), y)

    net, teacher = network(norm=False), network(norm=False)
    start = copy.deepcopy(net)
    batch = next(iter(loader()))
    run = trainer(tmp_path, [Distillation(teacher)], max_epochs=1)
    run.fit(TwoViews(net), single())
    both = torch.cat([batch[0], -batch[0]])
    soft = (teacher(both) / 4).softmax(1)
    kd = (soft * (soft.log() - (start(both) / 4).log_softmax(1))).sum(1).mean()
    assert float(run.callback_metrics["distill/kd"]) == pytest.approx(float(kd.detach()), rel=1e-4)


class NotCalled(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx < 3:
            return super().training_step(batch, batch_idx)
        return sum(p.square().sum() for p in self.net.parameters())


class WithoutGradient(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.net(batch[0])
        return sum(p.square().sum() for p in self.net.parameters())


class Spoils(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.mul_(2.0))


MISTAKES = {
    "not called": (NotCalled, {}, r"training_step did not call it: there are no logits"),
    "without a gradient": (WithoutGradient, {}, "called it without a gradient"),
    "in place": (
        lambda: Tiny(Spoils()),
        {"student": "net"},
        "student='net' changes its input in place",
    ),
    "in place, by the teacher": (Tiny, {"teacher": Spoils()}, "teacher: it changes its input"),
    "other outputs": (
        Tiny,
        {"teacher": nn.Linear(8, 5)},
        r"its outputs are \(10, 5\), the student's \(10, 3\)",
    ),
    "manual": (TwoOptimizers, {}, "with manual optimisation TwoOptimizers returns none"),
    "unknown student": (Tiny, {"student": "nett"}, "student='nett' is not known; did you mean 'n"),
    "unknown layer": (Tiny, {"hidden": "7"}, "hidden='7' is not known"),
    "a layer of the teacher": (
        Tiny,
        {"hidden": "0 -> 2.body"},
        r"hidden='2.body' is not known",
    ),
    "layers of other shapes": (
        Tiny,
        {"teacher": nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 3)), "hidden": "0"},
        r"the student's is \(10, 16\), the teacher's \(10, 5\)",
    ),
    "no places": (Tiny, {"attention": "0"}, r"it returns \(10, 16\), and a map has places"),
    "no teacher": (Tiny, {"teacher": None}, "teacher: name one: a checkpoint"),
    "a round": (Tiny, {"teacher": "dense"}, "is a round of `ltpl rounds`"),
    "no file": (Tiny, {"teacher": "nowhere.ckpt"}, "No trained weights at 'nowhere.ckpt'"),
    "no run": (Tiny, {"teacher": "run:nowhere"}, "no dense round is finished there"),
    "no graph": (Tiny, {"nodes": "train"}, "the batch has no train_mask"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line(name: str, tmp_path: Path) -> None:
    make, options, message = MISTAKES[name]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        trainer(tmp_path, [Distillation(**{"teacher": network(), **options})]).fit(make(), loader())
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0: above 0, at most 1e9 is wanted"),
        ({"alpha": 1.5}, "alpha=1.5: from 0 to 1"),
        ({"alpha": {}}, "alpha={}"),
        ({"alpha": {0: 0.5, 5: -1}}, "alpha={0: 0.5, 5: -1}: from 0 to 1"),
        ({"loss": "kll"}, "loss='kll' is not known; did you mean 'kl'"),
        ({"nodes": "test"}, "nodes='test' is not known"),
        ({"decay": 1.0}, "decay=1.0: from 0 to below 1"),
        ({"hidden_weight": -1.0}, "hidden_weight=-1.0: 0 or more"),
        ({"hidden": "a -> b -> c"}, "hidden='a -> b -> c': write layer"),
        ({"from_round": -1}, "from_round=-1"),
        ({"from_round": 0, "teacher": "dense"}, "the dense round has no teacher yet"),
        ({"network": nn.Linear(2, 2), "teacher": None}, "network: name its weights too"),
        ({"cache": True, "hidden": "0"}, "cache=True keeps the logits of a fixed teacher"),
        ({"cache": True, "teacher": "ema"}, "not a teacher that moves"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distillation(**{"teacher": "dense.ckpt", **options})


class Outermost(pl.Callback):
    """Somebody else's wrapper, put around ours and never taken away."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        step = pl_module.training_step
        pl_module.training_step = lambda *args: step(*args)


def test_somebody_elses_wrapper_stays_and_ours_lets_everything_through(tmp_path: Path) -> None:
    net = network()
    module = Tiny(net)
    outermost = Outermost()
    trainer(tmp_path, [Distillation(network()), outermost], max_epochs=1).fit(module, loader())
    assert "training_step" in vars(module)
    twin = copy.deepcopy(net)
    trainer(tmp_path, [], max_epochs=1).fit(module, loader())
    trainer(tmp_path, [], max_epochs=1).fit(Tiny(twin), loader())
    assert equal(net, twin.state_dict())


def test_several_teachers(tmp_path: Path) -> None:
    net, teachers = network(norm=False), [network(norm=False), nn.Linear(8, 3)]
    start, batch = copy.deepcopy(net), next(iter(loader()))
    each = [Distillation(t, temperature=1.0, alpha=0.5) for t in teachers]
    module = Tiny(net)
    trainer(tmp_path, each, max_epochs=1).fit(module, single())
    assert not {"training_step", "validation_step"} & set(vars(module))
    z = start(batch[0]).log_softmax(1)
    soft = [t(batch[0]).detach().softmax(1) for t in teachers]
    kd = [(p * (p.log() - z)).sum(1).mean() for p in soft]
    (0.5 * (0.5 * cross_entropy(z, batch[1]) + 0.5 * kd[0]) + 0.5 * kd[1]).backward()
    for name, parameter in start.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(dict(net.named_parameters())[name], expected)


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_layers_that_sit_on_the_module_itself(package: str, tmp_path: Path) -> None:
    import importlib

    lightning = importlib.import_module(package)

    class Own(lightning.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).tanh())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module, teacher = Own(), Own()
    twin = copy.deepcopy(module)
    options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu", "devices": 1}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    run = lightning.Trainer(
        max_epochs=EPOCHS,
        default_root_dir=tmp_path,
        callbacks=[Distillation(teacher, temperature=TEMPERATURE, alpha=ALPHA)],
        **options,
        **quiet,
    )
    run.fit(module, loader())
    script = ByHand(twin, copy.deepcopy(teacher), torch.optim.SGD(twin.parameters(), lr=0.1))
    assert equal(module, script.fit())


class Scaled(nn.Module):
    """More than the layers that train: frozen ones, and a factor on the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.head = network(norm=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 5.0 * self.head(self.frozen(x))
        return out


@pytest.mark.parametrize("built_late", [False, True])
def test_the_whole_network_is_heard_not_only_what_trains(built_late: bool, tmp_path: Path) -> None:
    class Module(Tiny):
        def configure_model(self) -> None:
            if built_late:
                self.net = net

    net, teacher = Scaled(), Scaled()
    start = copy.deepcopy(net)
    run = trainer(tmp_path, [Distillation(teacher, temperature=1.0)], max_epochs=1)
    run.fit(Module(nn.Identity() if built_late else net), single())
    x = next(iter(single()))[0]
    p, q = teacher(x).softmax(1), start(x).softmax(1)
    kd = (p * (p / q).log()).sum(1).mean().detach()
    assert float(run.callback_metrics["distill/kd"]) == pytest.approx(float(kd), rel=1e-4)


class Several(nn.Module):
    """Returns more than logits."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.body, self.other = kind, network(norm=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        logits, other = self.body(x), self.other(x)
        if self.kind == "tuple":
            return logits, other
        return {"aux": other, "logits": logits}


@pytest.mark.parametrize(("kind", "which"), [("tuple", None), ("tuple", 0), ("dict", None)])
def test_networks_that_return_several_things(kind: str, which: Any, tmp_path: Path) -> None:
    class Picks(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            found = self.net(batch[0])
            return cross_entropy(found[0] if kind == "tuple" else found["logits"], batch[1])

    net = Several(kind)
    run = trainer(tmp_path, [Distillation(Several(kind), output=which)], max_epochs=1)
    run.fit(Picks(net), loader())
    assert float(run.callback_metrics["distill/kd"]) > 0
    with pytest.raises(ValueError, match="output='z': the network returns a"):
        trainer(tmp_path, [Distillation(Several(kind), output="z")]).fit(Picks(net), loader())


def test_a_pruner_that_looks_at_the_loss_is_not_logged(tmp_path: Path) -> None:
    from ltpl.callbacks import PruneAtEpoch

    x, y = dataset().tensors
    prune = PruneAtEpoch(epochs=1, criterion="snip", batches=2, amount=0.5)
    for callbacks in ([Distillation(network()), prune], [prune, Distillation(network())]):
        run = trainer(tmp_path, callbacks, max_epochs=2)
        run.fit(Tiny(lr=0.0), DataLoader(TensorDataset(x, y), 10))
        distillation = next(c for c in callbacks if isinstance(c, Distillation))
        assert not distillation._means._counts
        assert float(run.callback_metrics["distill/agreement"]) <= 1


def test_the_trainers_own_counters_are_untouched(tmp_path: Path) -> None:
    class Counts(pl.Callback):
        batches = 0

        def on_train_batch_end(self, *_: Any) -> None:
            self.batches += 1

    counts = Counts()
    run = trainer(tmp_path, [counts, Distillation(network())])
    run.fit(Tiny(), loader())
    assert counts.batches == run.global_step == EPOCHS * BATCHES
