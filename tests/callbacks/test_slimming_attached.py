"""`NetworkSlimming` in other packages, on the command line, in files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from slim import fit

from ltpl.callbacks import NetworkSlimming
from ltpl.cli import main
from ltpl.masks import Mask


@pytest.mark.parametrize(
    "package", ["lightning.pytorch", pytest.param("pytorch_lightning", marks=pytest.mark.slow)]
)
def test_it_attaches_to_the_trainer_of_either_package(package: str, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    code = f"""
import torch
import {package} as pl
from torch import nn
from ltpl.callbacks import NetworkSlimming
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
slimming = NetworkSlimming(0.01, 0.5, epoch=1)
module = Module()
pl.Trainer(max_epochs=2, accelerator="cpu", devices=1, logger=False, gradient_clip_val=0.1,
           enable_checkpointing=False, callbacks=[slimming]).fit(
    module, torch.utils.data.DataLoader(torch.rand(8, 4), batch_size=4))
print(int((module.net[1].weight != 0).sum()), int((module.net[1].bias != 0).sum()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["3", "3"]


FIT = [
    "fit",
    "--data=Digits",
    "--model=ImageClassifier",
    "--model.network=ResNet",
    "--model.network.depth=8",
    "--model.network.inputs=1",
    "--trainer.fast_dev_run=2",
    "--seed_everything=1",
    "--trainer.accelerator=cpu",
]


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_command_line_takes_it_by_option_and_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ltpl"])
    monkeypatch.chdir(tmp_path)
    given = ["--slim=NetworkSlimming", "--slim.l1=1e-5", "--slim.epoch=[3, 5]", "--slim.amount=0.7"]
    with pytest.raises(SystemExit) as done:
        main([*FIT, *given, "--print_config"])
    assert done.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)["slim"]
    assert shown["class_path"].endswith("NetworkSlimming")
    assert shown["init_args"]["l1"] == 1e-5
    assert shown["init_args"]["epoch"] == [3, 5]
    Path("slim.yaml").write_text(yaml.safe_dump({"slim": shown}))
    main(
        [
            *FIT,
            "--config=slim.yaml",
            "--slim.step=proximal",
            "--slim.amount=null",
            "--slim.epoch=null",
        ]
    )
    with pytest.raises(SystemExit) as done:
        main([*FIT, "--slim=NetworkSlimming", "--slim.step=both"])
    assert done.value.code == 2
    assert "step='both' is not known" in capsys.readouterr().err


def test_masks_are_over_names_that_any_tool_reads(tmp_path: Path) -> None:
    slimming = NetworkSlimming(amount=0.5, epoch=0)
    module = fit(tmp_path, slimming, max_epochs=1)
    slimming.mask.save(tmp_path / "mask.safetensors")
    mask = Mask.load(tmp_path / "mask.safetensors")
    mask.must_fit(dict(module.named_parameters()))
