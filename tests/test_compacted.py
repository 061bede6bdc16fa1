"""`ltpl compact`: from a checkpoint to a small network that trains on, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import ltpl
from ltpl import cli
from ltpl.masks.mask import Mask
from ltpl.models import ResNet
from ltpl.tickets.snapshot import Snapshot

pytestmark = [
    # Lightning 2.6 calls what jsonargparse 4.53 deprecates
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    # the network is narrow, and rightly warned of
    pytest.mark.filterwarnings("ignore:min_keep=1 holds channels back:UserWarning"),
]
CONFIG = {
    "seed_everything": 0,
    "model": {
        "class_path": "ImageClassifier",
        "init_args": {
            "network": {
                "class_path": "ResNet",
                "init_args": {"depth": 20, "inputs": 1, "width": 0.25, "gamma": 0.5},
            },
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        },
    },
    "data": {"class_path": "Digits", "init_args": {"batch_size": 256}},
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
}
SLIM = {
    "class_path": "NetworkSlimming",
    "init_args": {"l1": 1e-3, "amount": 0.5, "epoch": 2, "trunk": "group"},
}


def main(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ltpl"])
        cli.main(arguments)


def written(config: dict, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config))
    return path


def checkpoint(folder: Path) -> Path:
    (path,) = folder.glob("lightning_logs/version_0/checkpoints/*.ckpt")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit that snapshots at its first epoch, prunes after its second, rewinds and trains on."""
    folder = tmp_path_factory.mktemp("trained")
    rewind = {"class_path": "RewindToEpoch", "init_args": {"epoch": 1}}
    config = written({**CONFIG, "slim": SLIM, "rewind": rewind}, folder / "slim.yaml")
    main(
        [
            "fit",
            f"--config={config}",
            "--trainer.max_epochs=3",
            f"--trainer.default_root_dir={folder}",
        ]
    )
    return checkpoint(folder)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    config = written(CONFIG, folder / "dense.yaml")
    main(
        [
            "fit",
            f"--config={config}",
            "--trainer.max_epochs=1",
            f"--trainer.default_root_dir={folder}",
        ]
    )
    return checkpoint(folder)


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def test_the_small_network_does_what_the_checkpoint_does(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    main(["compact", str(trained), f"--out={tmp_path / 'small'}"])
    assert not list((tmp_path / "here").iterdir())
    small = ltpl.load(tmp_path / "small").eval()
    whole = ResNet(depth=20, inputs=1, width=0.25)
    stored = torch.load(trained, weights_only=True)["state_dict"]
    whole.load_state_dict({n.removeprefix("network."): t for n, t in stored.items()})
    x = torch.randn(7, 1, 8, 8)
    torch.testing.assert_close(small(x), whole.eval()(x), rtol=1e-4, atol=1e-5)
    count = sum(p.numel() for p in small.parameters())
    said = report(tmp_path / "small")
    assert said["parameters"] == [sum(p.numel() for p in whole.parameters()), count]
    assert count < 0.6 * said["parameters"][0]
    assert said["macs"][1] < 0.6 * said["macs"][0]
    assert said["bytes"] == [
        sum(t.nbytes for t in network.state_dict().values()) for network in (whole, small)
    ]
    assert said["masked"] == pytest.approx(said["compacted"], rel=1e-4)
    layers = (tmp_path / "small" / "layers.csv").read_text().splitlines()
    assert layers[-1].split(",")[:3] == ["total", *map(str, said["parameters"])]


def test_it_trains_on_with_the_config_that_is_written(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    main(["compact", str(trained), f"--out={out}"])
    main(["fit", f"--config={out / 'config.yaml'}", "--trainer.max_epochs=1"])
    again = torch.load(checkpoint(out), weights_only=True)["state_dict"]
    small = ltpl.load(out)
    shapes = {n: p.shape for n, p in small.named_parameters()}
    assert shapes == {n: again[f"network.{n}"].shape for n in shapes}


def test_rewinding_takes_the_kept_slices_of_the_snapshot(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    main(["compact", str(trained), f"--out={out}", "--start=rewind"])
    (file,) = trained.parents[1].glob("snapshot*.safetensors")
    before = Snapshot.load(file).weights
    states = torch.load(trained, weights_only=True)["callbacks"].values()
    state = next(s for s in states if "shapes" in s)
    keep = Mask.unpacked(state["mask"], state["shapes"])["network.layer1.0.bn1.weight"]
    small = ltpl.load(out)
    kept = before["network.layer1.0.bn1.weight"][keep]
    torch.testing.assert_close(small.layer1[0].bn1.weight.data, kept)


def test_new_weights_depend_on_the_seed_alone(trained: Path, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        main(
            [
                "compact",
                str(trained),
                f"--out={tmp_path / name}",
                "--start=reinit",
                f"--seed={seed}",
            ]
        )
        found.append(ltpl.load(tmp_path / name).conv1.weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert report(tmp_path / "a")["masked"] == report(tmp_path / "c")["masked"]


def test_scratch_b_trains_for_as_much_computation(trained: Path, tmp_path: Path) -> None:
    for start in ("reinit", "scratch_b"):
        main(["compact", str(trained), f"--out={tmp_path / start}", f"--start={start}"])
    epochs = [
        yaml.safe_load((tmp_path / start / "config.yaml").read_text())["trainer"]["max_epochs"]
        for start in ("reinit", "scratch_b")
    ]
    many, few = report(tmp_path / "scratch_b")["macs"]
    assert epochs == [3, round(3 * many / few)]


@pytest.mark.parametrize("l1", [False, True])
def test_the_penalty_goes_on_if_asked(trained: Path, tmp_path: Path, l1: bool) -> None:
    main(["compact", str(trained), f"--out={tmp_path / 'x'}", f"--l1={str(l1).lower()}"])
    slim = yaml.safe_load((tmp_path / "x" / "config.yaml").read_text())["slim"]
    assert (slim is not None) == l1
    assert slim is None or (slim["init_args"]["l1"], slim["init_args"]["amount"]) == (1e-3, None)


@pytest.mark.parametrize(
    "option", ["--latency", pytest.param("--latency=true", marks=pytest.mark.slow)]
)
def test_latency_of_both_networks_is_measured_if_asked(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    main(["compact", str(trained), f"--out={tmp_path / 'plain'}"])
    assert "latency" not in report(tmp_path / "plain")
    assert "latency of" not in capsys.readouterr().out
    main(["compact", str(trained), f"--out={tmp_path / 'timed'}", option])
    dense, small = report(tmp_path / "timed")["latency"]
    assert dense > 0 < small
    assert "latency of a batch" in capsys.readouterr().out


def test_a_dense_checkpoint_is_pruned_first(dense: Path, tmp_path: Path) -> None:
    counts = []
    for amount in (0.3, 0.6):
        out = tmp_path / str(amount)
        main(["compact", str(dense), f"--out={out}", f"--amount={amount}", "--slim.trunk=group"])
        counts.append(report(out)["parameters"][1])
    assert counts[1] < counts[0] < report(out)["parameters"][0]


def test_widths_are_rounded(dense: Path, tmp_path: Path) -> None:
    main(["compact", str(dense), f"--out={tmp_path / 'x'}", "--amount=0.5", "--round_to=4"])
    small = ltpl.load(tmp_path / "x")
    assert {m.num_features % 4 for m in small.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {
        0
    }


def test_a_round_and_its_dead_neurons(tmp_path: Path) -> None:
    network = {"class_path": "LeNet300", "init_args": {"inputs": 64}}
    model = {"class_path": "ImageClassifier", "init_args": {"network": network}}
    prune = {"class_path": "PruneAtEpoch", "init_args": {"amount": 0.97, "scope": "global"}}
    config = written({**CONFIG, "model": model, "prune": prune}, tmp_path / "c.yaml")
    options = ["--levels=1", "--trainer.max_epochs=2", "--quiet"]
    main(["rounds", f"--config={config}", f"--run={tmp_path / 'run'}", *options])
    out = tmp_path / "small"
    main(["compact", str(tmp_path / "run/seed_0/round_01"), f"--out={out}"])
    many, few = report(out)["parameters"]
    assert few < many
    main(["fit", f"--config={out / 'config.yaml'}", "--trainer.max_epochs=1"])
    weights = torch.load(checkpoint(out), weights_only=True)["state_dict"]
    frozen = Mask.load(out / "mask.safetensors")
    for name, keep in frozen.items():
        assert not weights[name][~keep].any(), "what was pruned and could not go stays zero"


def test_an_early_bird_ticket(tmp_path: Path) -> None:
    bird = {"class_path": "EarlyBird", "init_args": {"amount": 0.5, "eps": 0.45, "window": 2}}
    config = written({**CONFIG, "early_bird": bird}, tmp_path / "c.yaml")
    options = [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=5"]
    main(["fit", f"--config={config}", *options])
    (ticket,) = tmp_path.glob("lightning_logs/version_0/early_bird_*")
    main(["compact", str(ticket), f"--out={tmp_path / 'small'}"])
    many, few = report(tmp_path / "small")["parameters"]
    assert few < many


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["compact", *arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_mistakes_get_one_line(
    dense: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"--out={tmp_path / 'x'}"
    assert "No checkpoint at" in failed(capsys, "nowhere.ckpt", out)
    assert "--amount" in failed(capsys, str(dense), out)
    assert "did you mean 'rewind'" in failed(capsys, str(trained), out, "--start=rewnd")
    assert "no snapshot" in failed(capsys, str(dense), out, "--start=rewind", "--amount=0.5")
    assert "only `rewind`" in failed(capsys, str(dense), out, "--snapshot=x")
    assert "0 <= amount < 1" in failed(capsys, str(dense), out, "--amount=1.5")
    assert "round_to=0" in failed(capsys, str(trained), out, "--round_to=0")
    assert "latency" in failed(capsys, str(trained), out, "--latency=often")
    lonely = tmp_path / "lonely.ckpt"
    lonely.write_bytes(dense.read_bytes())
    assert "--config" in failed(capsys, str(lonely), out)
    lonely.write_bytes(dense.read_bytes()[:1000])
    config = f"--config={dense.parents[1] / 'config.yaml'}"
    assert "no checkpoint that can be read" in failed(capsys, str(lonely), out, config)
    other = "--model.network.init_args.width=0.5"
    assert "does not fit" in failed(capsys, str(dense), out, config, other, "--amount=0.5")
    assert not (tmp_path / "x").exists()


def test_a_network_that_is_there_is_never_replaced(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    main(["compact", str(trained), f"--out={out}"])
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert "already" in failed(capsys, str(trained), f"--out={out}", "--start=reinit")
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    (out / "compact.safetensors").unlink()  # as after a kill: it is written last
    main(["compact", str(trained), f"--out={out}"])
    assert ltpl.load(out) is not None


def test_a_new_process_that_only_knows_the_class_loads_it(trained: Path, tmp_path: Path) -> None:
    main(["compact", str(trained), f"--out={tmp_path / 'small'}"])
    code = f"import ltpl; print(type(ltpl.load({str(tmp_path / 'small')!r})).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "ResNet"


@pytest.mark.filterwarnings("ignore")  # of the exporters
def test_it_is_exported_for_batches_of_any_size(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    out = tmp_path / "small"
    main(["compact", str(trained), f"--out={out}", "--onnx", "--export"])
    x = torch.randn(3, 1, 8, 8)
    expected = ltpl.load(out).eval()(x).detach()
    program = torch.export.load(out / "model.pt2").module()
    torch.testing.assert_close(program(x).detach(), expected, rtol=1e-4, atol=1e-5)
    runner = runtime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = runner.run(None, {runner.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
