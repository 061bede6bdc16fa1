from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ltpl
from ltpl.cli import main
from ltpl.masks import Mask

pytestmark = [
    pytest.mark.usefixtures("no_arguments"),
    # Lightning 2.6 calls what jsonargparse 4.53 deprecates
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]
CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
LARGE = (
    *("conv4", "conv6", "deconstructing", "homework", "preresnet"),
    *("resnet14", "resnet18", "resnet20", "rewinding", "vgg"),
)
RECIPES = [path for path in CONFIGS if "\nbranches:" in path.read_text()]  # of rounds alone
PLAIN = [path for path in CONFIGS if path not in RECIPES]
QUICKSTART = next(path for path in CONFIGS if path.stem == "quickstart")


@pytest.fixture
def no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ltpl"])


SMALL = [
    "--data.val_size=4",
    "--data.fraction=1",
    "--data.batch_size=4",
    "--data.eval_batch_size=4",
]


def data_of(config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return options that name the data of a config; skip where they do not lie.

    CIFAR-10 and images in folders are made up: a few random ones, in the files that are read.
    """
    kind = yaml.safe_load(config.read_text())["data"]["class_path"]
    if kind in ("Digits", "KarateClub"):
        return []
    if kind == "CIFAR10":
        cifar = pytest.importorskip("torchvision.datasets.cifar")
        monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
        write_cifar10(folder / "cifar-10-batches-py")
    elif kind == "CIFAR100":
        cifar = pytest.importorskip("torchvision.datasets.cifar")
        monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
        write_cifar100(folder / "cifar-100-python")
    elif kind == "ImageFolder":
        write_images(folder)
    else:
        folder = Path(os.environ.get("LTPL_DATA", CONFIGS[0].parents[2] / "shared" / "data"))
        if not folder.is_dir():
            pytest.skip(f"no data at {folder}; set LTPL_DATA")
        return [f"--data.data_dir={folder}"]
    return [f"--data.data_dir={folder}", *SMALL]


def write_cifar10(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        images = np.random.default_rng().integers(0, 256, (6, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": images, "labels": [0, 1, 2, 3, 4, 9]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [*"abcdefghij"]}))


def write_cifar100(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        images = np.random.default_rng().integers(0, 256, (30, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": images, "fine_labels": [*range(29), 99]}))
    names = {"fine_label_names": [str(number) for number in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names))


def write_images(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "test"):
        for name in "abc":
            (folder / part / name).mkdir(parents=True)
            for number in range(4):
                pixels = np.random.default_rng().integers(0, 256, (40, 36, 3), dtype=np.uint8)
                image.fromarray(pixels).save(folder / part / name / f"{number}.png")


# said rightly of configs for dense training that are run as rounds
@pytest.mark.filterwarnings("ignore:RewindToEpoch goes back to initialisation:UserWarning")
@pytest.mark.parametrize(
    ("config", "command"),
    [
        pytest.param(path, command, marks=pytest.mark.slow if path.stem.startswith(LARGE) else ())
        for command, paths in (("rounds", CONFIGS), ("fit", PLAIN))
        for path in paths
    ],
    ids=lambda value: value if isinstance(value, str) else value.stem,
)
def test_every_config_runs_and_a_dry_run_leaves_no_file(
    config: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(config, tmp_path / "data", monkeypatch)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    if command == "rounds":
        levels = min(1, yaml.safe_load(config.read_text()).get("levels", 1))
        data += [f"--levels={levels}", "--quiet=true"]
    else:
        data += ["--trainer.enable_progress_bar=false"]
    main([command, "--config", str(config), "--trainer.fast_dev_run=1", *data])
    assert not list((tmp_path / "work").rglob("*"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_understood(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rounds", "--config", str(config), "--print_config"])
    assert not ended.value.code
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"]


def test_the_printed_config_feeds_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "--config", str(QUICKSTART), "--trainer.fast_dev_run=1"]
    with pytest.raises(SystemExit):
        main([*arguments, "--print_config"])
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["prune"]["class_path"] == "ltpl.callbacks.PruneAtEpoch"
    path = tmp_path / "again.yaml"
    path.write_text(printed)
    main(["fit", "--config", str(path), "--trainer.enable_progress_bar=false"])


@pytest.mark.parametrize(
    "command",
    [["ltpl"], pytest.param([sys.executable, "-m", "ltpl"], marks=pytest.mark.slow)],
)
def test_the_command_tells_its_version(command: list[str]) -> None:
    if command == ["ltpl"]:
        command = [str(Path(sys.executable).with_name("ltpl"))]
        if not Path(command[0]).exists():
            pytest.skip("the package is not installed in this environment")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"ltpl {ltpl.__version__}"


def test_a_wrong_option_ends_with_exit_code_two_and_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(QUICKSTART), "--trainer.max_epoks=1"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "max_epoks" in told[0]
    assert "did you mean '--trainer.max_epochs'" in told[0]


@pytest.mark.parametrize(
    ("slot", "options", "cure"),
    [
        ("slim", ["NetworkSlimming"], "`prune`"),
        ("early_bird", ["EarlyBird", "--early_bird.action=prune"], "only watch"),
    ],
)
def test_rounds_refuse_what_prunes_inside_a_fit(
    slot: str, options: list[str], cure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--{slot}={options[0]}", *options[1:], f"--run={tmp_path / 'run'}"]
    with pytest.raises(SystemExit) as stopped:
        main(["rounds", f"--config={QUICKSTART}", *given])
    assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{slot}={options[0]} prunes inside a fit" in told
    assert cure in told
    assert not (tmp_path / "run").exists()


def test_rounds_prune_channels_between_fits(tmp_path: Path) -> None:
    network = {
        "class_path": "ResNet",
        "init_args": {"inputs": 1, "width": 0.25, "gamma": "uniform"},
    }
    config = {
        "model": {"class_path": "ImageClassifier", "init_args": {"network": network}},
        "data": {"class_path": "Digits", "init_args": {"batch_size": 512}},
        "prune": {"class_path": "NetworkSlimming", "init_args": {"amount": 0.25, "trunk": "group"}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    }
    (tmp_path / "slim.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    main(["rounds", f"--config={tmp_path / 'slim.yaml'}", f"--run={run}", "--levels=1", "--quiet"])
    mask = Mask.load(run / "seed_0" / "round_01" / "mask.safetensors")
    gammas = {name: keep for name, keep in mask.items() if name.endswith("weight")}
    for name, keep in gammas.items():
        assert torch.equal(keep, mask[name.removesuffix("weight") + "bias"])
    total = sum(keep.numel() for keep in gammas.values())
    assert 0.15 * total < total - sum(int(keep.sum()) for keep in gammas.values()) <= 0.25 * total


@pytest.mark.parametrize("command", ["fit", "rounds"])
def test_an_option_of_a_slot_puts_its_usual_class_there(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (quickstart,) = (str(config) for config in CONFIGS if config.stem == "quickstart")
    own = tmp_path / "own.yaml"
    own.write_text("distill: {class_path: Distillation, init_args: {temperature: 2.5}}\n")
    found = []
    for configs in (["--config", quickstart], ["--config", quickstart, "--config", str(own)]):
        with pytest.raises(SystemExit, match="0"):
            main([command, *configs, "--distill.teacher", "x.ckpt", "--print_config"])
        found.append(yaml.safe_load(capsys.readouterr().out)["distill"])
    assert [each["class_path"] for each in found] == ["ltpl.callbacks.Distillation"] * 2
    assert [each["init_args"]["teacher"] for each in found] == ["x.ckpt"] * 2
    assert [each["init_args"]["temperature"] for each in found] == [4.0, 2.5]
