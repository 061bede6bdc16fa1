"""Killed and resumed, in mid-epoch or at its end: the same epoch, the same masks, the same bits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from birds import Birds, Epochs, fit
from pytorch_lightning.callbacks import Checkpoint
from tiny import BATCHES

from ltpl.callbacks import EarlyBird, NetworkSlimming, RewindToEpoch
from ltpl.tickets.ticket import Ticket

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*the mask that was found differs in only"),
    pytest.mark.filterwarnings(
        "ignore:.*and no ticket was found for"
    ),  # of the part that is killed
]
AT = {"rule": "window", "window": 3, "eps": 0.3}
CASES: dict[str, Any] = {
    "stop": lambda: [EarlyBird(**AT)],
    "save, several": lambda: [EarlyBird([0.3, 0.5, 0.7], rule="paper", window=2, action="save")],
    "prune": lambda: [EarlyBird(action="prune", **AT)],
    "prune, rewind, slim": lambda: [
        NetworkSlimming(l1=1e-3, amount=None),
        EarlyBird(action="prune", **AT),
        RewindToEpoch(1),
    ],
    "magnitude": lambda: [EarlyBird(0.6, action="prune", channels="magnitude", **AT)],
}


class Saver(Checkpoint):
    """Saves after each batch, each validation and each epoch, as `ModelCheckpoint` may."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"epoch={trainer.current_epoch}-val.ckpt")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.folder / f"epoch={trainer.current_epoch}-end.ckpt")


def run(folder: Path, name: str, seed: int, **options: Any) -> tuple[Birds, EarlyBird, float]:
    callbacks, count = CASES[name](), Epochs()
    options["enable_checkpointing"] = True
    module = fit(folder, *callbacks, count, Saver(folder), seed=seed, **options)
    bird = next(x for x in callbacks if isinstance(x, EarlyBird))
    return module, bird, count.trained


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_watch_finds_the_same_at_the_same_epoch(name: str, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    module, whole, trained = run(tmp_path / "whole", name, seed)
    moment = whole.found[whole.act_on] or 3
    points = [f"step={step}" for step in (BATCHES + 4, 2 * BATCHES, moment * BATCHES)]
    points += [f"epoch={moment - 2}-end", f"epoch={moment - 1}-end", f"epoch={moment - 1}-val"]
    for point in points:
        folder = tmp_path / point
        resumed, bird, _ = run(folder, name, seed, resume=tmp_path / "whole" / f"{point}.ckpt")
        assert bird.found == whole.found, point
        assert bird.masks == whole.masks, point
        assert bird.mask == whole.mask, point
        assert bird.epochs() == whole.epochs(), point
        for amount in whole.watched:
            assert torch.equal(bird.distances(amount), whole.distances(amount)), point
        for parameter, value in module.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[parameter]), (point, parameter)
    if name == "stop":
        assert trained == whole.found[0.5]


def test_a_run_that_is_killed_and_resumed_in_its_folder_has_one_of_each_file(
    tmp_path: Path,
) -> None:
    seed = random.randrange(10**6)
    _, whole, _ = run(tmp_path / "whole", "prune", seed)
    for stop in (whole.found[0.5] * BATCHES - 2, whole.found[0.5] * BATCHES + 2):
        folder = tmp_path / f"killed at {stop}"
        run(folder, "prune", seed, stop_at=stop)
        _, bird, _ = run(folder, "prune", seed, resume=folder / f"step={stop}.ckpt")
        ours = sorted(p.name for p in folder.iterdir() if p.suffix != ".ckpt")
        assert ours == ["early_bird.json", "early_bird_0.5"]
        assert (folder / ours[0]).read_text() == (tmp_path / "whole" / ours[0]).read_text()
        kept, expected = (Ticket.load(b.tickets[0.5]) for b in (bird, whole))
        assert kept.mask == expected.mask
        assert kept.made_by == expected.made_by


def test_a_stopped_run_stays_stopped(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    module, whole, trained = run(tmp_path, "stop", seed)
    last = tmp_path / f"epoch={whole.found[0.5] - 1}-end.ckpt"
    again, _, more = run(tmp_path / "again", "stop", seed, resume=last, max_epochs=60)
    assert (trained, more) == (whole.found[0.5], 0)
    assert torch.equal(module.net[0].weight, again.net[0].weight)


def test_another_eps_goes_on_from_the_same_masks(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    strict, easy = EarlyBird(eps=1e-3, window=3), EarlyBird(eps=0.49, window=3)
    fit(tmp_path, strict, Saver(tmp_path), seed=seed, max_epochs=5, enable_checkpointing=True)
    fit(tmp_path, easy, seed=seed, resume=tmp_path / "epoch=4-end.ckpt")
    assert strict.found == {0.5: None}
    assert easy.found == {0.5: 6}
    assert easy.epochs() == [1, 2, 3, 4, 5, 6]


def test_a_watch_that_joins_later_has_no_mask_of_initialisation(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    fit(tmp_path, Saver(tmp_path), seed=seed, max_epochs=3, enable_checkpointing=True)
    bird = EarlyBird(eps=0.01, channels="magnitude")
    fit(tmp_path, bird, seed=seed, resume=tmp_path / "epoch=2-end.ckpt", max_epochs=6)
    assert bird.epochs() == [4, 5, 6]


def test_the_state_loads_without_running_code(tmp_path: Path) -> None:
    _, bird, _ = run(tmp_path, "save, several", 3)
    stored = torch.load(max(tmp_path.glob("*-end.ckpt")), weights_only=True)["callbacks"]
    state = stored[bird.state_key]
    packed = state["watch"]["detectors"]["0.5"]["history"]["packed"]
    assert {mask.numel() for mask in packed} == {5}  # 40 channels, eight bits a byte
