"""Damaged files are noticed by their digests, named, and made again; never used."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from small import EPOCHS, Data, Interrupted, Small, Watch, bits, find, part
from torch.utils.data import DataLoader

from ltpl.callbacks import PruneAtEpoch, RewindToEpoch
from ltpl.rounds.branch import Branch
from ltpl.rounds.branches import run_branch
from ltpl.rounds.checkpoint import newest_checkpoint
from ltpl.rounds.find import InPython, Run
from ltpl.rounds.plan import changed
from ltpl.rounds.status import status
from ltpl.tickets.files import is_whole, stored_digest
from ltpl.tickets.result import Result

LEVELS = 2


class Still(Data):
    """Without what may fail in a comparison of two runs."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(part(0), 6, shuffle=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return again(tmp_path_factory.mktemp("whole") / "run").path


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def again(run: Path, watch: Watch | None = None) -> Run:
    return find(run, watch or Watch(), make_data=Still, levels=LEVELS, quiet=False)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """Turn one bit of what is stored, not of the header's spaces."""
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    path.write_bytes(content)


def lose(path: Path) -> None:
    path.unlink()


DAMAGES = [cut, empty, flip, lose]
FILES = ["mask.safetensors", "snapshot.safetensors", "final.safetensors"]


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_round_with_a_damaged_file_is_run_again_to_the_same_bits(
    run: Path,
    whole: Path,
    damage: Callable[[Path], None],
    file: str,
    level: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = run / f"seed_0/round_0{level}" / file
    damage(path)
    watch = Watch()
    again(run, watch)
    said = capsys.readouterr().out
    assert f"Seed 0 round {level} is run again." in said
    assert str(path) in said
    assert watch.names == [f"seed_0/round_0{level}"]
    assert bits(run) == bits(whole)


@pytest.mark.parametrize("damage", [cut, empty, flip])
def test_a_round_with_a_damaged_result_is_run_again(
    run: Path, whole: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "seed_0/round_01/result.json"
    before = Result.load(path)
    damage(path)
    watch = Watch()
    again(run, watch)
    assert f"{path} " in capsys.readouterr().out
    assert watch.names == ["seed_0/round_01"]
    assert bits(run) == bits(whole)
    assert Result.load(path).test == before.test
    assert path.with_name("result.json.damaged").is_file()


def flipped(content: bytes, times: int) -> Iterator[bytes]:
    """Each with one bit that is another."""
    chance = random.Random(0)
    for _ in range(times):
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        yield bytes(changed)


def test_no_bit_of_a_result_can_change_unnoticed(run: Path) -> None:
    path = run / "seed_0/round_01/result.json"
    before, said = Result.load(path), []
    for content in flipped(path.read_bytes(), 400):
        path.write_bytes(content)
        try:
            assert Result.load(path) == before
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 350  # the rest is space between words
    assert all(str(path) in line and "\n" not in line for line in said)


@pytest.mark.parametrize("file", FILES)
def test_no_bit_of_a_ticket_can_change_unnoticed(run: Path, file: str) -> None:
    path = run / "seed_0/round_01" / file
    content, digest = path.read_bytes(), stored_digest(path) or ""
    harmless = 0
    for other in flipped(content, 400):
        path.write_bytes(other)
        harmless += is_whole(path, digest)
    assert harmless <= 8  # spaces that fill up a header


def test_a_file_of_another_round_is_not_taken(run: Path, whole: Path) -> None:
    there = run / "seed_0/round_02/final.safetensors"
    shutil.copy(run / "seed_0/round_01/final.safetensors", there)
    again(run)
    assert bits(run) == bits(whole)


@pytest.mark.parametrize("damage", [cut, empty, flip])
def test_a_damaged_checkpoint_is_not_used(
    tmp_path: Path, whole: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltpl.rounds.checkpoint.SHARE", 1e9)
    run, watch = tmp_path / "run", Watch()
    watch.interrupt("seed_0/round_01", 1, 2)
    with pytest.raises(Interrupted):
        again(run, watch)
    checkpoint = run / "seed_0/round_01/checkpoints/last.ckpt"
    damage(checkpoint)
    with pytest.warns(UserWarning, match=r"last\.ckpt cannot be read \(\w+\): passed over"):
        again(run, watch)
    assert watch.of("seed_0/round_01").step == 0
    assert bits(run) == bits(whole)


def test_no_bit_of_a_checkpoint_can_change_unnoticed(tmp_path: Path) -> None:
    tensors = {"weights": torch.arange(500.0), "global_step": 3}
    path = tmp_path / "hpc_ckpt_1.ckpt"
    torch.save(tensors, path)
    passed_over = 0
    for content in flipped(path.read_bytes(), 200):
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = newest_checkpoint(tmp_path)
        passed_over += found is None
        if found is not None:
            read = torch.load(found[0], weights_only=True)
            assert torch.equal(read["weights"], tensors["weights"])
            assert read["global_step"] == 3
    assert passed_over > 100


def test_a_damaged_ticket_of_an_unfinished_round_is_drawn_again(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, watch = tmp_path / "run", Watch()
    watch.interrupt("seed_0/round_01", 0, 1)
    with pytest.raises(Interrupted):
        again(run, watch)
    flip(run / "seed_0/round_01/snapshot.safetensors")
    again(run, watch)
    assert "round_01 is damaged and drawn again" in capsys.readouterr().out
    assert bits(run) == bits(whole)


def test_the_record_of_a_run_is_refused_when_it_is_cut_short(run: Path, whole: Path) -> None:
    cut(run / "run.json")
    with pytest.raises(ValueError, match=r"run\.json was not written by ltpl"):
        again(run)
    assert bits(run) == bits(whole)


def test_a_branch_names_the_damage_of_its_run(run: Path) -> None:
    flip(run / "seed_0/round_01/final.safetensors")
    trainer = {"max_epochs": EPOCHS, "accelerator": "cpu"}
    experiment = InPython(Small, Still, PruneAtEpoch(amount=0.5), RewindToEpoch(), trainer)
    with pytest.raises(ValueError, match=r"final\.safetensors .* makes it again"):
        run_branch(experiment, Branch("finetune", levels="2", quiet=True), run)
    assert not (run / "branches").exists()


def test_status_verifies_if_asked(run: Path) -> None:
    flip(run / "seed_0/round_01/final.safetensors")
    assert "again" not in status(run)
    wrong = status(run, verify=True).splitlines()[-1]
    assert "round_01/final.safetensors " in wrong
    assert wrong.endswith("`rounds` runs it again.")


def test_an_option_that_is_new_at_its_default_is_no_change() -> None:
    new = {
        "one_shot": False,
        "prune": {
            "class_path": "ltpl.callbacks.PruneAtEpoch",
            "init_args": {"amount": 0.2, "min_keep": 1, "frozen": False},
        },
    }
    old = {"prune": {"class_path": new["prune"]["class_path"], "init_args": {"amount": 0.2}}}
    assert changed(old, new) == []
    new["prune"]["init_args"]["min_keep"] = 2
    new["one_shot"] = True
    assert changed(old, new) == ["one_shot: None -> True", "prune.init_args.min_keep: None -> 2"]
