"""`EarlyBird` in other places: residual trunks, real digits, the command line, packages, ranks."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import processes
import pytest
import pytorch_lightning as pl
import torch
from birds import Epochs
from tiny import trainer

from ltpl.callbacks import EarlyBird, NetworkSlimming
from ltpl.callbacks.compacting import CompactAfterPruning
from ltpl.cli import main
from ltpl.data import Digits
from ltpl.models import ResNet
from ltpl.modules import ImageClassifier
from ltpl.tickets.ticket import Ticket


def classifier(width: float = 0.25) -> ImageClassifier:
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    net = ResNet(depth=8, width=width, inputs=1, gamma=0.5)
    return ImageClassifier(net, optimizer=sgd)


def test_on_real_digits_the_masks_come_to_rest_and_training_stops(tmp_path: Path) -> None:
    torch.manual_seed(random.randrange(10**6))
    bird, count = EarlyBird([0.3, 0.5]), Epochs()
    slimming = NetworkSlimming(l1=1e-4, amount=None)
    run = trainer(tmp_path, [slimming, bird, count], max_epochs=60)
    run.fit(classifier(), datamodule=Digits(batch_size=64))
    assert 6 <= bird.found[0.3] < 60  # with the paper's rule, six masks at least
    assert run.current_epoch == bird.found[0.3]
    last = bird.distances(0.3).diagonal(1)[-5:]
    assert bool((last < 0.1).all())
    assert bird.distances(0.3)[0, -1] > last.max()
    ticket = Ticket.load(bird.tickets[0.3])
    assert ticket.mask.kept == 2 * (ticket.mask.total // 2 - round(0.3 * ticket.mask.total // 2))


@pytest.mark.parametrize("trunk", ["inner", "group"])
def test_a_residual_trunk_is_kept_or_pruned_together(trunk: str, tmp_path: Path) -> None:
    bird = EarlyBird(0.4, 0.3, window=2, rule="window", trunk=trunk, min_keep=1)
    run = trainer(tmp_path, [bird], max_epochs=12)
    run.fit(classifier(0.5), datamodule=Digits(batch_size=128))
    mask = bird.masks[0.4]
    of_trunk = [mask[f"network.{layer}.weight"] for layer in ("bn1", "layer1.0.bn2")]
    inner = [f"network.layer{i}.0.bn1.weight" for i in (1, 2, 3)]
    pruned = sum(int((~mask[name]).sum()) for name in inner)
    if trunk == "inner":
        assert all(bool(keep.all()) for keep in of_trunk)
        assert pruned == round(0.4 * (8 + 16 + 32))
        assert bird.watch[0.4].history.bits == 56  # what never goes is no bit
    else:
        assert torch.equal(*of_trunk)
        assert bird.watch[0.4].history.bits == mask.total // 2


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_command_line_has_a_slot_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ltpl"])
    network = {"class_path": "ltpl.models.ResNet"}
    network["init_args"] = {"depth": 8, "width": 0.25, "inputs": 1, "gamma": 0.5}
    options = ["fit", "--model=ImageClassifier", f"--model.network={json.dumps(network)}"]
    options += ["--data=Digits", "--data.batch_size=128", "--early_bird=EarlyBird"]
    options += ["--early_bird.eps=0.25", "--early_bird.amount=[0.5,0.6]", "--early_bird.window=2"]
    options += [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu"]
    options += ["--trainer.max_epochs=30", "--trainer.enable_progress_bar=false"]
    options += [f"--seed_everything={random.randrange(10**6)}"]
    main([*options, "--trainer.log_every_n_steps=5", "--model.optimizer.lr=0.01"])
    (numbers,) = tmp_path.rglob("early_bird.json")
    found = json.loads(numbers.read_text())["amounts"]["0.5"]
    assert found["found"] == found["epochs"][-1] < 30
    assert (numbers.parent / "early_bird_0.5" / "mask.safetensors").is_file()
    assert list(numbers.parent.glob("events.out.tfevents.*"))


OTHER = """
import sys
import lightning.pytorch as pl, torch
from lightning.pytorch.loggers import TensorBoardLogger
from ltpl.callbacks import EarlyBird
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(8, 24), torch.nn.BatchNorm1d(24), torch.nn.Tanh(),
            torch.nn.Linear(24, 3))
    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)
data = torch.utils.data.TensorDataset(torch.randn(60, 8), torch.randint(3, (60,)))
bird = EarlyBird(eps=0.4, window=2)
logger = TensorBoardLogger(sys.argv[1])
run = pl.Trainer(max_epochs=30, accelerator="cpu", callbacks=[bird], logger=logger)
run.fit(Module(), torch.utils.data.DataLoader(data, batch_size=10))
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(logger.log_dir).Reload()
print(bird.found[0.5] == run.current_epoch < 30, events.Tags()["images"])
"""


@pytest.mark.slow
def test_it_works_with_the_other_package_too(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    done = subprocess.run(
        [sys.executable, "-c", OTHER, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True ['early_bird/distances/0.5']"


@pytest.mark.slow
def test_every_rank_holds_what_the_first_has_drawn(tmp_path: Path) -> None:
    processes.run("early_bird_two_processes.py", tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert first["found"] == second["found"] != {0.5: None}
    assert first["ticket"] == second["ticket"]
    assert torch.equal(first["distances"], second["distances"])
    for name, keep in first["mask"].items():
        assert torch.equal(keep, second["mask"][name])
        assert torch.equal(first["weights"][name], second["weights"][name])
        assert torch.equal(first["weights"][name] != 0, keep)
    ticket = Ticket.load(first["ticket"][0.5])
    assert all(torch.equal(keep, first["mask"][name]) for name, keep in ticket.mask.items())


def test_it_is_a_public_name() -> None:
    import ltpl.callbacks

    assert "EarlyBird" in ltpl.callbacks.__all__
    assert issubclass(EarlyBird, pl.Callback)


def test_channels_that_were_found_can_be_removed_at_once(tmp_path: Path) -> None:
    bird = EarlyBird([0.5, 0.3], 0.35, window=2, rule="window", action="prune", trunk="inner")
    module = classifier(0.5)
    dense = sum(p.numel() for p in module.parameters())
    run = trainer(tmp_path, [bird, CompactAfterPruning()], max_epochs=12)
    run.fit(module, datamodule=Digits(batch_size=128))
    assert bird.pruned_at == [bird.found[0.5]]
    assert sum(p.numel() for p in module.parameters()) < 0.7 * dense
    assert bird.masks[0.5].total == 2 * (3 * 8 + 2 * 16 + 2 * 32)  # the ticket is as it was
    assert bird.epochs(0.5) == list(range(1, bird.found[0.5] + 1))
