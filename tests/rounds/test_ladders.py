"""Ladders of a branch's own, early networks that are pruned, and tickets trained once more."""

from __future__ import annotations

import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from small import EPOCHS, Data, Interrupted, Run, Small, Watch, bits, copied, find

from ltpl.callbacks import PruneAtEpoch, RewindToEpoch
from ltpl.masks import Mask, prune
from ltpl.rounds.branch import Branch
from ltpl.rounds.branches import run_branch
from ltpl.rounds.find import InPython
from ltpl.rounds.tree import RunTree
from ltpl.tickets import Snapshot
from ltpl.tickets.path import read_path
from ltpl.tickets.ticket import Ticket

AMOUNT, LEVELS = 0.4, 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("ladder") / "run"
    kept = {"levels": LEVELS, "prune": {"amount": AMOUNT}, "snapshots": ["1ep", "5it"]}
    return find(folder, Watch(), **kept)


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    shutil.copytree(finished.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def branched(
    run: Run,
    name: str,
    rewind: dict[str, Any] | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> RunTree:
    trainer = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "callbacks": [watch or Watch()],
    }
    pruner, rewinder = PruneAtEpoch(amount=AMOUNT), RewindToEpoch(**(rewind or {}))
    experiment = InPython(Small, Data, pruner, rewinder, trainer)
    return run_branch(experiment, Branch(name, report=False, quiet=True, **options), run.path)


def final(tree: RunTree, level: int, seed: int = 0) -> Snapshot:
    return Snapshot.load(tree.round(seed, level) / "final.safetensors")


def network(weights: Snapshot) -> Small:
    module = Small()
    weights.restore_weights_(module)
    return module


def test_a_ladder_like_that_of_the_run_has_its_bits(run: Run) -> None:
    tree = branched(run, "again", kind="ladder")
    for level in (1, 2):
        theirs = bits(run.tree.round(0, level))
        ours = bits(tree.round(0, level))
        assert ours["final.safetensors"] == theirs["final.safetensors"]
        assert Mask.load(tree.round(0, level) / "mask.safetensors") == run.mask(level)


def test_a_ladder_prunes_what_it_has_trained_itself(run: Run) -> None:
    tree = branched(run, "tuned", {"policy": "finetune"}, kind="ladder")
    before = final(tree, 1)
    expected = prune(network(before), AMOUNT, mask=Ticket.load(tree.round(0, 1)).mask)
    assert Ticket.load(tree.round(0, 2)).mask == expected
    kept = Ticket.load(tree.round(0, 2))
    for name, keep in kept.mask.items():
        assert torch.equal(kept.start.weights[name], before.weights[name] * keep)
    assert [r.round for r in tree.results()] == [1, 2]
    assert all(r.made_by["policy"] == "finetune" for r in tree.results())


def test_a_ladder_goes_on_where_it_was_interrupted(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "other")
    whole = branched(run, "tuned", {"policy": "finetune"}, kind="ladder")
    watch, other = Watch(), Run.open(tmp_path / "other")
    watch.interrupt("seed_0/round_02", 1, 1)
    with pytest.raises(Interrupted):
        branched(other, "tuned", {"policy": "finetune"}, watch, kind="ladder")
    again = branched(other, "tuned", {"policy": "finetune"}, watch, kind="ladder")
    assert bits(again.path) == bits(whole.path)


def test_a_ladder_has_densities_of_its_own(run: Run) -> None:
    tree = branched(run, "deep", kind="ladder", densities=[0.7, 0.2, 0.1])
    total = run.results[0].total
    assert [r.kept for r in tree.results()] == [round(total * d) for d in (0.7, 0.2, 0.1)]


def test_a_ladder_may_go_deeper_than_the_run(run: Run) -> None:
    tree = branched(run, "deep", kind="ladder", levels=3, one_shot=True)
    assert [r.round for r in tree.results()] == [3]
    steps = prune(network(final(run.tree, 0)), AMOUNT)
    for _ in range(2):
        steps = prune(network(final(run.tree, 0)), AMOUNT, mask=steps)
    assert Ticket.load(tree.round(0, 3)).mask == steps


def test_a_ladder_at_once_prunes_the_dense_network_each_time(run: Run) -> None:
    tree = branched(run, "deep", kind="ladder", densities=[0.3, 0.6], one_shot=True)
    dense = network(final(run.tree, 0))
    for level, density in ((1, 0.3), (2, 0.6)):
        assert Ticket.load(tree.round(0, level)).mask == prune(dense, 1 - density)


@pytest.mark.parametrize(("moment", "epoch"), [("1ep", 1), ("5it", None), ("2ep", 2)])
def test_an_early_network_is_pruned_as_it_was(run: Run, moment: str, epoch: int | None) -> None:
    """Two moments were kept by the run; until the third, the dense network is trained again."""
    options = {"kind": "ladder", "densities": [0.3], "one_shot": True, "drawn_at": moment}
    watch = Watch(keep_weights=True)
    find(run.path.parent / "watched", watch, levels=0)
    step = 5 if epoch is None else 4 * epoch
    early = Small()
    early.load_state_dict(watch.of("seed_0/round_00").alive[step - 1])
    tree = branched(run, "early", {"policy": "lr_rewind"}, **options)
    ticket = Ticket.load(tree.round(0, 1))
    assert ticket.mask == prune(early, 0.7)
    weights = dict(early.named_parameters())
    for name, keep in ticket.mask.items():
        assert torch.equal(ticket.start.weights[name], weights[name] * keep)
    (result,) = tree.results()
    assert result.epochs == EPOCHS


def test_what_is_kept_is_what_was_trained_until_then(run: Run) -> None:
    watch = Watch(keep_weights=True)
    find(run.path.parent / "watched", watch, levels=0)
    alive = watch.of("seed_0/round_00").alive
    for moment, step in (("1ep", 4), ("5it", 5)):
        kept = Snapshot.load(run.path / f"seed_0/round_00/snapshot_{moment}.safetensors")
        state = copied(network(kept))
        assert all(torch.equal(state[name], value) for name, value in alive[step - 1].items())
    assert run.results[0].files.keys() >= {"snapshot_1ep.safetensors", "snapshot_5it.safetensors"}


def test_a_result_knows_how_its_mask_did_on_the_trained_weights(run: Run) -> None:
    first, second = run.results[1], run.results[2]
    for result in (first, second):
        module = network(final(run.tree, result.round - 1))
        run.mask(result.round).apply_(module)
        module.eval()
        right = [module.net(x).argmax(1) == y for x, y, _ in Data().val_dataloader()]
        assert result.pruned_acc == pytest.approx(float(torch.cat(right).float().mean()))
        assert result.pruned["val_acc"] == result.pruned_acc
        assert result.start_acc == result.start["val_acc"]
    assert run.results[0].pruned == {}
    assert run.results[0].pruned_acc is None
    assert [r.epochs for r in run.results] == [EPOCHS] * 3


def test_a_branch_says_how_its_masks_did_when_they_were_pruned(run: Run) -> None:
    of = {name: branched(run, name, levels=1).results()[0] for name in ("reinit", "shuffled_mask")}
    assert of["reinit"].pruned == run.results[1].pruned
    assert of["shuffled_mask"].pruned == {}


def test_a_late_rewinding_point_counts_the_epochs_after_it(run: Run) -> None:
    tree = branched(run, "late", {"at": "1ep2it"}, kind="rewind", levels=1)
    assert tree.results()[0].epochs == EPOCHS - 1.5


def test_reorder_trains_the_same_ticket_with_the_data_in_another_order(run: Run) -> None:
    watch, first = Watch(), Watch()
    tree = branched(run, "reorder", watch=watch, points=3)
    assert [r.round for r in tree.results()] == [0, 1, 2]
    for result in tree.results():
        points = read_path(tree.round(0, result.round))
        ends = [run.results[result.round].end, result.end]
        assert len(points) == 3
        assert [p.raw_val_loss for p in (points[0], points[-1])] == pytest.approx(
            [end["val_loss"] for end in ends]
        )
    find(run.path.parent / "watched", first, levels=LEVELS, prune={"amount": AMOUNT})
    for level in (0, 1, 2):
        ours, theirs = (w.of(f"seed_0/round_{level:02}") for w in (watch, first))
        assert all(torch.equal(ours.weights[n], theirs.weights[n]) for n in theirs.weights)
        assert ours.numbers != theirs.numbers
        epochs = [sorted(chain(*fit.numbers[:4])) for fit in (ours, theirs)]
        assert epochs[0] == epochs[1]
        mask = Mask.load(tree.round(0, level) / "mask.safetensors")
        assert mask == run.mask(level)
    other = Watch()
    branched(run, "other", kind="reorder", draw=1, levels=1, watch=other, points=2)
    assert other.of("seed_0/round_01").numbers != watch.of("seed_0/round_01").numbers


def test_a_branch_may_use_the_rounds_of_another(run: Run) -> None:
    tuned = branched(run, "tuned", {"policy": "finetune"}, kind="ladder")
    again = branched(run, "tuned_again", kind="reorder", of="tuned", levels=2, points=2)
    theirs, ours = (Ticket.load(tree.round(0, 2)) for tree in (tuned, again))
    assert ours.mask == theirs.mask
    assert all(torch.equal(w, theirs.start.weights[n]) for n, w in ours.start.weights.items())
    anew = branched(run, "anew", kind="reinit", of="tuned", levels=2)
    assert Ticket.load(anew.round(0, 2)).mask == theirs.mask


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "reinit", "densities": [0.5]}, "densities belongs to kind=ladder, not to reinit"),
        ({"kind": "reinit", "drawn_at": "1ep"}, "drawn_at belongs to kind=ladder or one_shot"),
        ({"kind": "ladder", "drawn_at": "1ep"}, "only a ladder with one_shot=true"),
        ({"kind": "one_shot", "drawn_at": "1 ep"}, "drawn_at='1 ep' is not a step"),
        ({"kind": "ladder", "of": "x"}, "draws masks of its own"),
        ({"kind": "reorder", "points": 1}, "points=1: give 2 to 1001"),
    ],
)
def test_options_that_do_not_belong_together_are_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Branch("x", **options)


def test_what_is_not_there_is_told(run: Run) -> None:
    branched(run, "tuned", {"policy": "finetune"}, kind="ladder", levels=1)
    with pytest.raises(ValueError, match="of='tune' is not known; did you mean 'tuned'"):
        branched(run, "x", kind="reinit", of="tune")
    with pytest.raises(ValueError, match="levels=7: the ladder has 2"):
        branched(run, "y", kind="ladder", densities=[0.5, 0.3], levels=7)
    early = {"kind": "ladder", "densities": [0.5], "one_shot": True, "drawn_at": "early_bird"}
    with pytest.raises(ValueError, match=r"early_bird_0\.5 is not there \(no ticket is\)"):
        branched(run, "z", **early)
    with pytest.raises(ValueError, match="snapshots keeps 9ep, but training ends after 3 epochs"):
        find(run.path.parent / "more", snapshots=["9ep"])
