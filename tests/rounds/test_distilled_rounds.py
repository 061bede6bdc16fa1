"""Rounds that learn from the dense network, the round before, or something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from small import BATCHES, Data, Interrupted, Small, Watch, bits, find, same
from torch import Tensor, nn

from ltpl.callbacks import Distillation, PruneAtEpoch, RewindToEpoch
from ltpl.rounds.branch import Branch
from ltpl.rounds.branches import run_branch
from ltpl.rounds.find import InPython
from ltpl.tickets.snapshot import Snapshot


class Listens(pl.Callback):
    """Notes whose weights the teacher of each round has."""

    taught: dict[str, dict[str, Tensor]]

    def __init__(self) -> None:
        self._taught: dict[str, Any] = {}

    def __deepcopy__(self, memo: Any) -> Listens:
        return self

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        distillation = next(c for c in trainer.callbacks if isinstance(c, Distillation))
        supervision = distillation._supervision
        name = "/".join(Path(trainer.default_root_dir).parts[-2:])
        network = supervision.teacher.network if supervision is not None else None
        found = None if network is None else network.state_dict()
        self._taught[name] = found


def weights(folder: Path) -> dict[str, Tensor]:
    found = Snapshot.load(folder / "final.safetensors")
    every = {**found.weights, **found.buffers}
    return {name.removeprefix("net."): tensor for name, tensor in every.items()}


@pytest.mark.parametrize("teacher", [None, "dense", "previous"])
def test_sparse_rounds_learn_from_rounds_before(teacher: str | None, tmp_path: Path) -> None:
    listens = Listens()
    distillation = Distillation(teacher)
    find(tmp_path / "run", callbacks=[distillation, listens], levels=2, seeds=[0, 3])
    for seed in (0, 3):
        of = tmp_path / "run" / f"seed_{seed}"
        assert listens._taught[f"seed_{seed}/round_00"] is None
        for level in (1, 2):
            source = of / f"round_{level - 1 if teacher == 'previous' else 0:02}"
            assert same(listens._taught[f"seed_{seed}/round_{level:02}"], weights(source))


def test_the_dense_round_is_that_of_a_run_without_a_teacher(tmp_path: Path) -> None:
    find(tmp_path / "plain")
    find(tmp_path / "run", callbacks=[Distillation()])
    one, other = bits(tmp_path / "plain"), bits(tmp_path / "run")
    changed = {name for name in one if one[name] != other[name]}
    assert changed == {"seed_0/round_01/final.safetensors"}


@pytest.mark.parametrize(("from_round", "distilled"), [(0, {0, 1, 2}), (1, {1, 2}), (2, {2})])
def test_rounds_are_distilled_from_the_first_that_shall_be(
    from_round: int, distilled: set[int], tmp_path: Path
) -> None:
    listens = Listens()
    big = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    callbacks = [Distillation(big, from_round=from_round), listens]
    find(tmp_path / "run", callbacks=callbacks, levels=2)
    found = {int(name[-2:]) for name, taught in listens._taught.items() if taught is not None}
    assert found == distilled


def test_a_run_teaches_another_the_same_seed_if_it_has_that(tmp_path: Path) -> None:
    find(tmp_path / "first", levels=0, seeds=[1, 2])
    for seed, source in ((2, 2), (5, 1)):
        listens = Listens()
        teacher = Distillation(f"run:{tmp_path / 'first'}", from_round=0)
        find(tmp_path / f"second{seed}", callbacks=[teacher, listens], levels=0, seeds=[seed])
        folder = tmp_path / "first" / f"seed_{source}" / "round_00"
        assert same(listens._taught[f"seed_{seed}/round_00"], weights(folder))


def test_an_interrupted_distilled_round_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltpl.rounds.checkpoint.SHARE", 1e9)
    for teacher in (None, "ema"):
        name = teacher or "dense"

        def run(folder: str, watch: Watch | None = None, teacher: Any = teacher) -> Any:
            given = [Distillation(teacher, decay=0.9)]
            path = tmp_path / folder
            return find(path, watch, callbacks=given, save_every_n_steps=1)

        whole = run(f"{name}-whole")
        watch = Watch()
        watch.interrupt("seed_0/round_01", 1, 1)
        with pytest.raises(Interrupted):
            run(f"{name}-cut", watch)
        run(f"{name}-cut", watch)
        assert bits(tmp_path / f"{name}-cut") == bits(tmp_path / f"{name}-whole")
        assert whole.results[-1].round == 1


def branch(folder: Path, distillation: Any, listens: Any, **options: Any) -> Path:
    callbacks = [distillation, listens]
    trainer = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "callbacks": callbacks,
    }
    rewind = RewindToEpoch(options.pop("rewind", 0))
    experiment = InPython(Small, Data, PruneAtEpoch(amount=0.5), rewind, trainer)
    quiet = {"report": False, "quiet": True}
    return run_branch(experiment, Branch(**{**quiet, **options}), folder).path


def test_a_branch_distils_tickets_that_were_found_without(tmp_path: Path) -> None:
    find(tmp_path / "run", levels=2)
    for kind in ("retrain", "finetune"):
        listens = Listens()
        path = branch(tmp_path / "run", Distillation(), listens, name=f"kd_{kind}", kind=kind)
        dense = weights(tmp_path / "run" / "seed_0" / "round_00")
        for level in (1, 2):
            assert same(listens._taught[f"seed_0/round_{level:02}"], dense)
            masks = [
                bits(folder / "seed_0" / f"round_{level:02}")["mask.safetensors"]
                for folder in (path, tmp_path / "run")
            ]
            assert masks[0] == masks[1]


def test_in_a_branch_the_dense_network_can_learn_from_itself(tmp_path: Path) -> None:
    find(tmp_path / "run")
    listens = Listens()
    branch(tmp_path / "run", Distillation(), listens, name="again", levels="0-1")
    dense = weights(tmp_path / "run" / "seed_0" / "round_00")
    assert same(listens._taught["seed_0/round_00"], dense)


def test_on_the_way_to_another_rewinding_point_nothing_is_distilled(tmp_path: Path) -> None:
    find(tmp_path / "run")
    listens = Listens()
    branch(tmp_path / "run", Distillation(), listens, name="late", kind="rewind", rewind=1)
    assert listens._taught["seed_0/rewind"] is None
    assert listens._taught["seed_0/round_01"] is not None


def test_a_teacher_that_is_not_there_is_refused_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    watch = Watch()
    for teacher in ("nowhere.ckpt", "run:nowhere"):
        with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
            find(tmp_path / "run", watch, callbacks=[Distillation(teacher)])
    assert not watch.names


def test_every_round_sees_its_own_augmented_batches(tmp_path: Path) -> None:
    """The teacher gets the very tensors that the student gets."""
    seen: list[Tensor] = []

    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(6, 3)

        def __deepcopy__(self, memo: Any) -> Notes:
            return self

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            out: Tensor = self.body(x)
            return out

    watch = Watch()
    given = Distillation(Notes(), from_round=0, validate=False)
    find(tmp_path / "run", watch, callbacks=[given], levels=0)
    assert len(seen) == 3 * BATCHES
    assert all(torch.equal(a, b) for a, b in zip(seen, watch._fits[-1].inputs, strict=True))
    assert not torch.equal(seen[0], seen[BATCHES])
