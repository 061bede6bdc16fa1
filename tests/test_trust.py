"""A run or a checkpoint from a stranger: nothing that its config names is imported or called."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import nn

from ltpl import cli
from ltpl.trust import Trust

pytestmark = [
    # Lightning 2.6 calls what jsonargparse 4.53 deprecates
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]
TRAP = "trap_of_a_stranger"
MODEL = {
    "class_path": "ltpl.modules.ImageClassifier",
    "init_args": {"network": {"class_path": "ltpl.models.LeNet300"}},
}
CONFIG = {
    "model": MODEL,
    "data": {"class_path": "ltpl.data.Digits"},
    "trainer": {"logger": False, "enable_checkpointing": False, "fast_dev_run": True},
}


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a mark as soon as it is imported; the folder is the working one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ltpl"])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, TRAP, raising=False)
    mark = tmp_path / "mark"
    (tmp_path / f"{TRAP}.py").write_text(
        "from pathlib import Path\nimport os, pytorch_lightning as pl\n"
        f"Path({str(mark)!r}).touch()\n"
        "class Model(pl.LightningModule): pass\n"
    )
    return mark


def record(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    content = {"format": "ltpl.run/1", "levels": 1, "seeds": [0], "config": config}
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that has to end with one line and exit code two; return the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


def callback(name: str, **options: Any) -> dict[str, Any]:
    return {"trainer": {"callbacks": [{"class_path": name, "init_args": options}]}}


HOSTILE = {
    "a class": {"model": {"class_path": f"{TRAP}.Model"}},
    "only imported": {"model": f"{TRAP}.Model"},
    "deep inside": {"model": {**MODEL, "init_args": {"network": {"class_path": f"{TRAP}.Net"}}}},
    "other arguments": {"model": {**MODEL, "dict_kwargs": {"x": {"class_path": f"{TRAP}.Net"}}}},
    "a criterion": {
        "prune": {"class_path": "PruneAtEpoch", "init_args": {"criterion": "os.system"}}
    },
    "an odd file": {
        "prune": {"class_path": "PruneAtEpoch", "init_args": {"criterion": "odd-one.f"}}
    },
    "partial": callback("functools.partial", func="os.system"),
    "a callable": callback("pytorch_lightning.callbacks.LambdaCallback", on_fit_start="os.abort"),
    "by its bare name": callback("LambdaCallback"),
    "a logger that calls home": {"trainer": {"logger": {"class_path": "MLFlowLogger"}}},
    "a loader": callback("torch.hub.load"),
    "through a module": callback("torch.nn.functional.warnings.warn"),
    "a command line": callback("ltpl.cli.LotteryCLI", args=["fit"]),
    "code from a text": callback("torch_geometric.nn.Sequential", input_args="x"),
    "text that is YAML": {"trainer": f"{{callbacks: [{{class_path: {TRAP}.Model}}]}}"},
    "text in disguise": {"model": '"\\u0074rap_of_a_stranger.Model"'},
    "a type": {"model": f"list[{TRAP}.Model]"},
    "filled in later": {"model": "${oc.env:HOME}"},
    "a config": {"model": "model.yaml"},
    "a config in a config": {"model": "folder/outer.yaml"},
    "it trusts itself": {"trust": True, "model": f"{TRAP}.Model"},
    "what explains a mistake": {"model": f"${{Option 'x' is not accepted class_path {TRAP}.Model"},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_branch_imports_nothing_that_only_the_run_names(
    what: str, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = f"class_path: {TRAP}.Model"
    Path("model.yaml").write_text(inner)
    Path("odd-one.py").write_text(Path(f"{TRAP}.py").read_text())
    Path("folder").mkdir()
    Path("folder/inner.yaml").write_text(inner)
    Path("folder/outer.yaml").write_text("class_path: inner.yaml")
    run = record(Path("run"), {**CONFIG, **HOSTILE[what]})
    line = refused(["branch", str(run), "--name=reinit"], capsys)
    assert str(run / "run.json") in line
    assert "--trust" in line
    assert not trap.exists()


def test_what_the_user_names_or_trusts_is_built(
    trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The traps above are real: without the care they go off."""
    run = str(record(Path("run"), {**CONFIG, "model": {"class_path": f"{TRAP}.Model"}}))
    command = ["branch", run, "--name=reinit"]
    for trusting in (["--trust"], ["--trust=true"], ["--trust", "true"], [f"--model={TRAP}.Model"]):
        sys.modules.pop(TRAP, None)
        line = refused([*command, *trusting], capsys)
        assert "has not finished any round" in line
        assert trap.exists()
        trap.unlink()
    assert "--trust" in refused([*command, "--trust=false"], capsys)


def test_no_file_stands_in_for_the_options_of_a_run(
    trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = record(Path("run"), {"seed_everything": 0})
    Path(json.dumps({"seed_everything": 0})).write_text(f"model: {TRAP}.Model")
    refused(["branch", str(run), "--name=reinit"], capsys)
    assert not trap.exists()


def test_compact_imports_nothing_that_only_the_config_beside_names(
    trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("given").mkdir()
    config = Path("given/config.yaml")
    checkpoint = Path("given/some.ckpt")
    checkpoint.write_text(f"{{class_path: {TRAP}.Model}}")
    command = ["compact", str(checkpoint), "--out=small"]
    config.write_text(yaml.safe_dump({**CONFIG, "model": {"class_path": f"{TRAP}.Model"}}))
    checkpoint.rename(f"{TRAP}.Model")  # which its user has to write
    config.rename("config.yaml")
    assert "--trust" in refused(["compact", f"{TRAP}.Model", "--out=small"], capsys)
    Path(f"{TRAP}.Model").rename(checkpoint)
    Path("config.yaml").rename(config)
    for text, said in (
        (yaml.safe_dump({**CONFIG, "model": {"class_path": f"{TRAP}.Model"}}), TRAP),
        (f"a: !!python/object/apply:{TRAP}.Model []", "cannot be read"),
        ("[1, 2]", "options are needed"),
        (
            "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(2)) + "c: &c [*c]",
            "",
        ),
        ("[" * 5000, "cannot be read"),
    ):
        config.write_text(text)
        assert said in refused(command, capsys)
        assert not trap.exists()
    assert not Path("small").exists()


def checkpoint(path: Path, **more: Any) -> str:
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", **more}, path)
    return str(path)


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_no_class_comes_out_of_a_checkpoint(
    command: str, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [command, "--model=ImageClassifier", "--model.network=LeNet300", "--data=Digits"]
    path = checkpoint(trap.parent / "a.ckpt", hyper_parameters={"_class_path": f"{TRAP}.Model"})
    line = refused([*given, f"--ckpt_path={path}"], capsys)
    assert path in line
    assert "--trust" in line
    path = checkpoint(trap.parent / "b.ckpt", hyper_parameters={"lr": Bomb(trap)})
    assert "read safely" in refused([*given, f"--ckpt_path={path}"], capsys)
    assert "pickles" in refused([*given, f"--ckpt_path={trap.parent}"], capsys)
    assert not trap.exists()


def test_a_checkpoint_from_afar_is_read_without_running_it(
    trap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning reads what it downloads with pickle, unless it is told not to."""
    asked: list[Any] = []

    def read(self: Any, path: str, weights_only: bool | None = None, **_: Any) -> Any:
        asked.append(weights_only)
        raise FileNotFoundError(path)

    monkeypatch.setattr(TorchCheckpointIO, "load_checkpoint", read)
    arguments = ["validate", "--model=ImageClassifier", "--model.network=LeNet300", "--data=Digits"]
    quiet = ["--trainer.logger=false", "--trainer.accelerator=cpu", "--seed_everything=0"]
    with pytest.raises(FileNotFoundError):
        cli.main([*arguments, *quiet, "--ckpt_path=https://stranger.example/model.ckpt"])
    assert asked == [True]


class Own(nn.Module):
    pass


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.Linear",
        "torch.optim.lr_scheduler.StepLR",
        "ltpl.load",
        "ImageClassifier",
        "ltpl.callbacks.PruneAtEpoch",
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "pytorch_lightning.loggers.CSVLogger",
        "TensorBoardLogger",
        "pytorch_lightning.cli.ReduceLROnPlateau",
        "torchmetrics.Accuracy",
        "network.fc1.weight",
        "data/x.csv",
        "encoder.*",
        "[0.5, 0.3]",
        f"{__name__}.Own",
    ],
)
def test_what_an_honest_run_names_is_trusted(name: str) -> None:
    Trust.of([Own], []).must_allow({"x": [name]}, "run.json")


def test_a_program_is_trusted_with_its_own_classes_alone() -> None:
    with pytest.raises(ValueError, match="which is not of ltpl"):
        Trust().must_allow({"x": f"{__name__}.Own"}, "run.json")
    with pytest.raises(ValueError, match="which is not of ltpl"):
        Trust.of([Own], []).must_allow({"x": f"{__name__}.json.loads"}, "run.json")


def test_a_config_without_end_is_refused() -> None:
    loop: list[Any] = []
    loop += [loop, loop]
    with pytest.raises(ValueError, match="more than 100,000 values"):
        Trust().must_allow(loop, "run.json")
