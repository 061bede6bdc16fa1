"""The callbacks attached to modules that nobody here wrote: what installed packages bring."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_cases import CASES, NAMESPACES, Case, vectors
from torch import Tensor

from ltpl.callbacks import FreezeSparsity, PruneAtEpoch, RewindToEpoch, Trajectory
from ltpl.callbacks.namespace import Callback

EPOCHS = 4
PRUNE_AT = [1, 3]
AMOUNTS = [0.5, 0.3]
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class PowerCut(Exception):
    """The machine goes down."""


class Steady(Callback):
    """Make randomness (dropout) depend on the batch alone, keep what a rewind should go back to."""

    def __init__(self, cut_at: int | None = None) -> None:
        self.cut_at = cut_at
        self.starts: dict[int, dict[str, Tensor]] = {}

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.cut_at:
            raise PowerCut

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, index: int) -> None:
        torch.manual_seed(100 * trainer.current_epoch + index)
        self.starts[trainer.global_step] = copied(pl_module)


@dataclass
class Outcome:
    case: Case
    starts: dict[int, dict[str, Tensor]]
    last: dict[str, Any]
    resumed: dict[str, Any]
    fresh: Any
    metrics: dict[str, float]
    history: list[str]
    snapshot_step: int


def copied(module: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def make(case: Case, namespace: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return case.module(namespace)


def make_trainer(namespace: str, folder: Path, callbacks: list[Any], **options: Any) -> Any:
    lightning = importlib.import_module(namespace)
    saved = lightning.callbacks.ModelCheckpoint(dirpath=folder, save_last=True)
    defaults = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "devices": 1,
        "logger": lightning.loggers.CSVLogger(folder),
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(callbacks=[*callbacks, saved], **(defaults | options))


def fit(case: Case, namespace: str, folder: Path, steady: Steady, resume: bool = False) -> Any:
    callbacks = [
        steady,
        PruneAtEpoch(PRUNE_AT, AMOUNTS),
        RewindToEpoch(**case.rewind),
        Trajectory(),
    ]
    trainer = make_trainer(namespace, folder, callbacks, **case.options)
    module, data = make(case, namespace, seed=int(resume)), case.data(namespace)
    path = folder / "last.ckpt" if resume else None
    if hasattr(data, "prepare_data"):
        trainer.fit(module, datamodule=data, ckpt_path=path)
    else:
        trainer.fit(module, data, ckpt_path=path)
    return trainer


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def pruner_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    states = checkpoint["callbacks"]
    (key,) = [key for key in states if key.startswith("PruneAtEpoch")]
    return states[key]


def kept_in(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Read the mask with nothing but torch and numpy."""
    state = pruner_state(checkpoint)
    masks = {}
    for name, shape in state["shapes"].items():
        bits = np.unpackbits(state["mask"][name].numpy(), count=int(np.prod(shape)))
        masks[name] = torch.from_numpy(bits).bool().reshape(shape)
    return masks


def deserved(case: Case) -> list[pytest.MarkDecorator]:
    return [pytest.mark.filterwarnings(f"ignore:{case.says}")] if case.says else []


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((name, namespace), marks=deserved(case), id=f"{name}, {namespace}")
        for name, case in CASES.items()
        for namespace in case.namespaces
    ],
)
def outcome(request: Any, tmp_path_factory: Any) -> Iterator[Outcome]:
    name, namespace = request.param
    case, patch = CASES[name], pytest.MonkeyPatch()
    importlib.import_module(namespace)
    for demos in ("transformer", "lstm"):
        module = importlib.import_module(f"{namespace}.demos.{demos}")
        patch.setattr(module, "WikiText2", module.WikiText2)
    whole, cut = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cut")
    steady = Steady()
    trainer = fit(case, namespace, whole, steady)
    with pytest.raises(PowerCut):
        fit(case, namespace, cut, Steady(cut_at=2))
    fit(case, namespace, cut, Steady(), resume=True)
    (rewind,) = [c for c in trainer.callbacks if isinstance(c, RewindToEpoch)]
    per_epoch = trainer.global_step // EPOCHS
    step = case.rewind.get("epoch", 0) * per_epoch + int(case.rewind.get("at", "0it")[:-2])
    yield Outcome(
        case,
        steady.starts,
        load(whole / "last.ckpt"),
        load(cut / "last.ckpt"),
        make(case, namespace, seed=2),
        {key: float(value) for key, value in trainer.callback_metrics.items()},
        rewind.history,
        step,
    )
    patch.undo()


def test_matrices_and_kernels_are_pruned_and_nothing_else(outcome: Outcome) -> None:
    expected = [n for n, p in outcome.fresh.named_parameters() if p.dim() > 1]
    assert list(kept_in(outcome.last)) == [n for n in expected if n not in outcome.case.left_out]


def test_sparsity_is_exact_to_the_weight(outcome: Outcome) -> None:
    masks, weights = kept_in(outcome.last), outcome.last["state_dict"]
    kept = sum(mask.numel() for mask in masks.values())
    for amount in AMOUNTS:
        kept -= round(amount * kept)
    assert sum(int(mask.sum()) for mask in masks.values()) == kept
    assert sum(int(weights[name].count_nonzero()) for name in masks) == kept
    assert outcome.metrics["ticket/kept"] == kept


def test_a_checkpoint_is_zero_exactly_where_the_mask_says(outcome: Outcome) -> None:
    for name, mask in kept_in(outcome.last).items():
        assert torch.equal(outcome.last["state_dict"][name] != 0, mask), name


def test_a_checkpoint_loads_into_the_plain_module(outcome: Outcome) -> None:
    outcome.fresh.load_state_dict(outcome.last["state_dict"], strict=True)
    for name, mask in kept_in(outcome.last).items():
        assert not outcome.fresh.get_parameter(name)[~mask].count_nonzero()


def test_a_resumed_run_ends_with_the_same_bits(outcome: Outcome) -> None:
    whole, resumed = outcome.last, outcome.resumed
    assert pruner_state(whole)["pruned_at"] == pruner_state(resumed)["pruned_at"] == PRUNE_AT
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    for name, mask in kept_in(whole).items():
        assert torch.equal(mask, kept_in(resumed)[name]), name


def test_a_rewind_goes_back_to_the_very_bits_of_the_snapshot(outcome: Outcome) -> None:
    assert len(outcome.history) == len(PRUNE_AT)
    last_pruning = max(outcome.starts) + 1
    per_epoch = last_pruning // EPOCHS
    rewound = outcome.starts[PRUNE_AT[-1] * per_epoch]
    masks = kept_in(outcome.last)
    for name, value in outcome.starts[outcome.snapshot_step].items():
        expected = value * masks[name] if name in masks else value
        assert torch.equal(rewound[name], expected), name


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_module_pruned_elsewhere_is_fine_tuned_without_losing_a_zero(
    namespace: str, tmp_path: Path
) -> None:
    module = make(CASES["LightningTransformer"], namespace, seed=0).model.transformer.encoder
    torch.nn.utils.prune.random_unstructured(module.layers[0].linear1, "weight", 0.25)
    torch.nn.utils.prune.remove(module.layers[0].linear1, "weight")
    pruned = module.layers[0].linear1.weight == 0

    boring = importlib.import_module(f"{namespace}.demos.boring_classes")

    class FineTuned(boring.DemoModel):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = module

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return self.encoder(batch.repeat(1, 200 // 32 + 1)[:, None, :200]).square().mean()

    module = FineTuned()
    trainer = make_trainer(namespace, tmp_path, [FreezeSparsity(), Trajectory()])
    trainer.fit(module, vectors())
    assert pruned.sum() == 0.25 * pruned.numel()
    assert torch.equal(module.encoder.layers[0].linear1.weight == 0, pruned)


def prune_and_rewind(rewind: dict[str, str] | None = None, **pruner: Any) -> list[dict[str, Any]]:
    """Return the `trainer.callbacks` of a YAML."""
    return [
        {"class_path": "ltpl.callbacks.PruneAtEpoch", "init_args": pruner},
        {"class_path": "ltpl.callbacks.RewindToEpoch"} | ({"init_args": rewind} if rewind else {}),
    ]


EVERY = {"class_path": "ltpl.callbacks.Every", "init_args": {"n": 1}}
CUBIC = {"class_path": "ltpl.callbacks.Cubic", "init_args": {"first": 0, "last": 2}}
WATCHED = [{"class_path": f"ltpl.callbacks.{name}"} for name in ("Trajectory", "FreezeSparsity")]
COMMAND_LINES = {  # name -> callbacks, how many of 64 weights are left after three epochs
    "a list of epochs": (prune_and_rewind(epochs=[1], amount=0.5), 32),
    "one epoch": (prune_and_rewind(epochs=1, amount=0.5), 32),
    "a schedule": (prune_and_rewind(epochs=EVERY, amount=0.25), 27),
    "a gradual schedule": (prune_and_rewind(epochs=CUBIC, amount=0.5), 32),
    "an amount for each epoch": (prune_and_rewind(epochs=[1, 2], amount=[0.5, 0.25]), 24),
    "rates": (prune_and_rewind(epochs=[1], amount=0.5, rates={"layer.*": 0.5}), 48),
    "a criterion by name": (prune_and_rewind(epochs=[1], amount=0.5, criterion="random"), 32),
    "a criterion by path": (
        prune_and_rewind(epochs=[1], amount=0.5, criterion="foreign_criterion.last_survive"),
        32,
    ),
    "a glob": (prune_and_rewind(epochs=[1], amount=0.5, include="layer.*"), 32),
    "globs": (prune_and_rewind(epochs=[1], amount=0.5, include=["layer.*"], exclude=["bias"]), 32),
    "N:M": (prune_and_rewind(epochs=[1], scope="2:4"), 32),
    "other policies": (prune_and_rewind({"policy": "lr_rewind"}, epochs=[1], amount=0.5), 32),
    "a step": (prune_and_rewind({"at": "3it", "optimizer": "restored"}, epochs=[1]), 51),
    "all callbacks": (prune_and_rewind(epochs=[1], amount=0.5) + WATCHED, 32),
}


ROUND_TRIPS = ("a list of epochs", "a schedule", "an amount for each epoch", "all callbacks")


@pytest.fixture(
    scope="module",
    params=[NAMESPACES[0], *(pytest.param(n, marks=pytest.mark.slow) for n in NAMESPACES[1:])],
)
def command_lines(request: Any, tmp_path_factory: Any) -> Path:
    """Run every command line in one process that imports Lightning, and only Lightning, first."""
    here, folder = Path(__file__).parent, tmp_path_factory.mktemp("cli")
    for name, (callbacks, _) in COMMAND_LINES.items():
        options = {
            "max_epochs": 3,
            "accelerator": "cpu",
            "devices": 1,
            "limit_train_batches": 4,
            "limit_val_batches": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(folder / name),
            "callbacks": callbacks,
        }
        (folder / name).mkdir()
        (folder / f"{name}.yaml").write_text(json.dumps({"trainer": options}))
    for name in ROUND_TRIPS:
        (folder / f"{name}.printed").touch()
    paths = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, str(here / "foreign_cli.py"), request.param, str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_their_command_line_takes_the_callbacks_from_yaml(command_lines: Path, name: str) -> None:
    error = command_lines / f"{name}.error"
    assert not error.exists(), error.read_text()
    checkpoint = load(command_lines / f"{name}.yaml.ckpt")
    (mask,) = kept_in(checkpoint).values()
    assert (int(mask.sum()), mask.numel()) == (COMMAND_LINES[name][1], 64)
    assert torch.equal(checkpoint["state_dict"]["layer.weight"] != 0, mask)


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_printed_config_runs_the_same(command_lines: Path, name: str) -> None:
    first, again = (load(command_lines / f"{name}.{x}.ckpt") for x in ("yaml", "printed"))
    assert torch.equal(first["state_dict"]["layer.weight"], again["state_dict"]["layer.weight"])
