"""Branches: what each kind starts from, and that the run itself stays as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small import (
    CLASSES,
    EPOCHS,
    Data,
    Interrupted,
    Small,
    Watch,
    bits,
    copied,
    find,
    same,
)
from torch import nn

from ltpl.callbacks import PruneAtEpoch, RewindToEpoch
from ltpl.rounds.branch import KINDS, Branch
from ltpl.rounds.branches import run_branch
from ltpl.rounds.find import InPython, Run
from ltpl.rounds.tree import RunTree
from ltpl.tickets import Snapshot
from ltpl.tickets.ticket import Ticket

PRUNE = {"amount": 0.5, "scope": "layer", "rates": {"output": 0.5}}
LEVEL = 2
OURS = f"seed_0/round_{LEVEL:02}"


def experiment(
    watch: Watch,
    rewind: dict[str, Any] | None = None,
    make_model: Any = Small,
    max_epochs: int = EPOCHS,
    make_data: Any = Data,
) -> InPython:
    trainer = {
        "max_epochs": max_epochs,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "callbacks": [watch],
    }
    return InPython(
        make_model, make_data, PruneAtEpoch(**PRUNE), RewindToEpoch(**(rewind or {})), trainer
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Watch]:
    """A run whose branches are tested; each test works on a copy."""
    watch = Watch()
    return find(tmp_path_factory.mktemp("run") / "run", watch, levels=LEVEL, prune=PRUNE), watch


@pytest.fixture
def run(finished: tuple[Run, Watch], tmp_path: Path) -> Run:
    shutil.copytree(finished[0].path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def branched(run: Run, name: str, *args: Any, **options: Any) -> tuple[RunTree, Watch]:
    watch = Watch()
    given = {"levels": LEVEL, "report": False, "quiet": True} | options
    tree = run_branch(experiment(watch, *args), Branch(name, **given), run.path)
    return tree, watch


def ticket(tree: RunTree, level: int = LEVEL) -> Ticket:
    return Ticket.load(tree.round(0, level))


def counts(mask: Any) -> list[int]:
    return [int(keep.sum()) for keep in mask.values()]


def trained(run: Run, level: int) -> dict[str, torch.Tensor]:
    return Snapshot.load(run.path / f"seed_0/round_{level:02}/final.safetensors").weights


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_runs_and_leaves_the_run_as_it_was(run: Run, kind: str) -> None:
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    tree, watch = branched(run, kind)
    below = ["seed_0/round_01"] if kind == "ladder" else []
    assert watch.names == [*below, OURS]
    *_, result = tree.results()
    assert (result.branch, result.round, result.seed) == (kind, LEVEL, 0)
    assert result.steps == run.results[LEVEL].steps
    assert all(p.read_bytes() == content for p, content in before.items())
    new = {p for p in run.path.rglob("*") if p.is_file()} - before.keys()
    assert all(p.is_relative_to(run.path / "branches" / kind) for p in new)
    start = ticket(tree)
    for name, keep in start.mask.items():
        assert not start.start.weights[name][~keep].count_nonzero()


@pytest.mark.parametrize("kind", [k for k in KINDS if "mask" not in k and "shot" not in k])
def test_kinds_that_keep_the_masks_keep_them(run: Run, kind: str) -> None:
    tree, _ = branched(run, kind)
    mask = ticket(tree).mask
    assert all(torch.equal(keep, run.mask(LEVEL)[name]) for name, keep in mask.items())


def test_random_masks_keep_the_counts_of_each_layer_elsewhere(run: Run) -> None:
    tree, _ = branched(run, "random_mask", counts="layer")
    mask, ours = ticket(tree).mask, run.mask(LEVEL)
    assert counts(mask) == counts(ours)
    assert all((mask[name] != ours[name]).any() for name in ours)


def test_random_masks_may_keep_the_count_of_all_alone(run: Run) -> None:
    tree, _ = branched(run, "anywhere", kind="random_mask", counts="global")
    mask, ours = ticket(tree).mask, run.mask(LEVEL)
    assert (mask.kept, mask.total) == (ours.kept, ours.total)
    other, _ = branched(run, "again", kind="random_mask", counts="global", draw=1)
    assert {tuple(counts(m)) for m in (mask, ticket(other).mask)} != {tuple(counts(ours))}


def test_shuffled_masks_keep_the_counts_of_each_layer(run: Run) -> None:
    tree, _ = branched(run, "shuffled_mask")
    mask, ours = ticket(tree).mask, run.mask(LEVEL)
    assert counts(mask) == counts(ours)
    assert all((mask[name] != ours[name]).any() for name in ours)
    random, _ = branched(run, "random_mask")
    assert ticket(random).mask.digest != mask.digest


@pytest.mark.parametrize("kind", ["random_mask", "shuffled_mask", "reinit", "mask_transfer"])
def test_each_draw_is_another_and_can_be_repeated(run: Run, kind: str) -> None:
    tickets = [
        ticket(branched(run, name, kind=kind, draw=draw)[0])
        for name, draw in (("a", 0), ("b", 1), ("c", 1))
    ]
    digests = [t.mask.digest for t in tickets]
    starts = [t.start.weights for t in tickets]
    if kind.endswith("_mask"):
        assert digests[0] != digests[1] == digests[2]
    else:
        assert len(set(digests)) == 1
        assert not same(starts[0], starts[1])
    assert same(starts[1], starts[2])


def test_pruned_at_once_the_counts_are_those_of_the_ladder(run: Run) -> None:
    tree, _ = branched(run, "one_shot")
    mask, dense = ticket(tree).mask, trained(run, 0)
    assert counts(mask) == counts(run.mask(LEVEL))
    for name, keep in mask.items():
        assert dense[name][keep].abs().min() >= dense[name][~keep].abs().max()


def test_where_the_kinds_start(run: Run, finished: tuple[Run, Watch]) -> None:
    initial = finished[1].of("seed_0/round_00").weights
    before = trained(run, LEVEL - 1)
    expected = {
        "retrain": initial,
        "rewind": initial,
        "random_mask": initial,
        "shuffled_mask": initial,
        "one_shot": initial,
        "lr_rewind": before,
        "finetune": before,
        "ticket_transfer": initial,
    }
    for kind, weights in expected.items():
        tree, watch = branched(run, kind)
        mask = ticket(tree).mask
        for name in weights:
            if kind == "ticket_transfer" and name.startswith("net.4"):
                continue
            kept = weights[name] * mask[name] if name in mask else weights[name]
            assert torch.equal(watch.of(OURS).weights[name], kept), (kind, name)
    for kind in ("reinit", "mask_transfer"):
        tree, watch = branched(run, kind)
        keep = ticket(tree).mask["net.0.weight"]
        start = watch.of(OURS).weights["net.0.weight"]
        assert (start[keep] != initial["net.0.weight"][keep]).all()


def test_a_retrained_ticket_is_the_round_that_it_came_from(run: Run) -> None:
    tree, _ = branched(run, "again", levels=None)
    assert [r.round for r in tree.results()] == [1, 2]
    for level in (1, 2):
        names = ("final.safetensors", "mask.safetensors")
        for name in names:
            mine, theirs = (bits(t / OURS.replace("2", str(level))) for t in (tree.path, run.path))
            assert mine[name] == theirs[name]


def test_options_may_change_in_a_branch(run: Run) -> None:
    tree, watch = branched(run, "longer", None, Small, EPOCHS + 1)
    assert tree.results()[0].steps > run.results[LEVEL].steps
    assert len(set(watch.of(OURS).lr)) == EPOCHS + 1


class OtherHead(Small):
    """Another task: as many classes, or more."""

    def __init__(self) -> None:
        super().__init__()
        self.net[4] = nn.Linear(10, CLASSES + 2)


@pytest.mark.parametrize("make_model", [Small, OtherHead])
@pytest.mark.parametrize("kind", ["mask_transfer", "ticket_transfer"])
def test_a_transfer_starts_its_head_anew_and_dense(
    run: Run, finished: tuple[Run, Watch], kind: str, make_model: Any
) -> None:
    initial = finished[1].of("seed_0/round_00").weights
    tree, watch = branched(run, kind, None, make_model)
    mask, start = ticket(tree).mask, watch.of(OURS).weights
    assert list(mask) == ["net.0.weight"]
    assert torch.equal(mask["net.0.weight"], run.mask(LEVEL)["net.0.weight"])
    assert start["net.4.weight"].count_nonzero() == start["net.4.weight"].numel()
    if make_model is Small:
        assert (start["net.4.weight"] != initial["net.4.weight"]).all()
        assert (start["net.4.bias"] != initial["net.4.bias"]).all()
    keep = mask["net.0.weight"]
    came_along = torch.equal(start["net.0.weight"][keep], initial["net.0.weight"][keep])
    assert came_along == (kind == "ticket_transfer")


def test_the_head_of_a_transfer_may_be_named(run: Run) -> None:
    tree, _ = branched(run, "ticket_transfer", head="net.0.*")
    assert list(ticket(tree).mask) == ["net.4.weight"]
    with pytest.raises(ValueError, match=r"head.*net\.9"):
        branched(run, "other", kind="ticket_transfer", head="net.9")


class Narrow(Small):
    def __init__(self) -> None:
        super().__init__()
        self.net[0] = nn.Linear(6, 8)
        self.net[1] = nn.BatchNorm1d(8)
        self.net[4] = nn.Linear(8, CLASSES)


def test_what_does_not_fit_another_network_is_named(run: Run) -> None:
    with pytest.warns(UserWarning, match=r"net\.0\.weight does not fit and starts anew"):
        tree, _ = branched(run, "ticket_transfer", None, Narrow)
    assert not ticket(tree).mask.keys()


@pytest.mark.parametrize("policy", ["rewind", "lr_rewind"])
def test_another_rewinding_point_is_that_of_a_run_made_with_it(
    run: Run, tmp_path: Path, policy: str
) -> None:
    late = {"at": "1ep2it", "optimizer": "restored", "policy": policy}
    tree, watch = branched(run, policy, late)
    other = find(tmp_path / "other", levels=0, prune=PRUNE, rewind=late)
    snapshot = Snapshot.load(other.path / "seed_0/round_00/snapshot.safetensors")
    (path,) = tree.path.rglob("1ep2it.safetensors")
    mine = Snapshot.load(path)
    assert same(mine.weights, snapshot.weights)
    assert same(mine.buffers, snapshot.buffers)
    assert (mine.position, mine.schedulers) == (snapshot.position, snapshot.schedulers)
    assert watch.of(OURS).step == 6
    momenta = [mine.optimizers[0]["state"], snapshot.optimizers[0]["state"]]
    for index, state in momenta[0].items():
        assert torch.equal(state["momentum_buffer"], momenta[1][index]["momentum_buffer"])
    if policy == "rewind":
        mask = run.mask(LEVEL)
        for name, keep in mask.items():
            start = watch.of(OURS).weights[name]
            assert torch.equal(start, snapshot.weights[name] * keep)


def test_the_way_to_another_rewinding_point_is_trained_once(run: Run) -> None:
    tree, watch = branched(run, "rewind", {"at": "1ep"}, levels="1-2")
    assert len(watch.names) == 3
    assert watch._fits[0].steps == [0, 1, 2, 3, 4]  # the last of them was not trained
    assert watch._fits[0].name == "seed_0/rewind"
    assert [r.round for r in tree.results()] == [1, 2]


def test_a_branch_cannot_go_back_beyond_the_end(run: Run) -> None:
    with pytest.raises(ValueError, match="9ep is asked for, but dense training ends before"):
        branched(run, "rewind", {"at": "9ep"})


def test_a_branch_goes_on_where_it_was_interrupted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltpl.rounds.checkpoint.SHARE", 1e9)
    shutil.copytree(run.path, tmp_path / "whole")
    late = {"at": "1ep2it"}
    whole, _ = branched(Run.open(tmp_path / "whole"), "rewind", late, levels=None)
    watch = Watch()
    branch = Branch("rewind", report=False, quiet=True)
    for point in ((("rewind"), 1, 0), (OURS, 1, 3), (OURS, 2, 1)):
        folder = "seed_0/rewind" if point[0] == "rewind" else point[0]
        watch.interrupt(folder, *point[1:])
        with pytest.raises(Interrupted):
            run_branch(experiment(watch, late), branch, run.path)
    tree = run_branch(experiment(watch, late), branch, run.path)
    assert bits(tree.path) == bits(whole.path)
    assert watch.names.count("seed_0/round_01") == 1
    fits = len(watch.names)
    run_branch(experiment(watch, late), branch, run.path)
    assert len(watch.names) == fits


def test_a_branch_with_other_options_is_refused(run: Run) -> None:
    branched(run, "random_mask")
    with pytest.raises(ValueError, match=r"branch\.draw: 0 -> 1"):
        branched(run, "random_mask", draw=1)
    with pytest.raises(ValueError, match=r"trainer\.max_epochs: 3 -> 4"):
        branched(run, "random_mask", None, Small, 4)
    tree, watch = branched(run, "random_mask", levels="1-2")
    assert watch.names == ["seed_0/round_01"]
    assert [r.round for r in tree.results()] == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "reinit", "levels": 3}, "has not finished seed 0 round 3"),
        ({"name": "reinit", "seeds": 1}, "has not finished seed 1 round"),
        ({"name": "reinit", "levels": 0}, "a branch of kind 'reinit' has no round 0"),
        ({"name": "x", "kind": "reinitt"}, "kind.*did you mean 'reinit'"),
        ({"name": "x", "counts": "layers"}, "counts.*did you mean 'layer'"),
        ({"name": "a/b"}, "it names a folder; no slash"),
        ({"name": ".a"}, "no leading dot"),
        ({"name": ""}, "it names a folder"),
        ({"name": "reinit", "levels": "5-1"}, "levels='5-1': write 3, 0-4 or 0,2,5"),
    ],
)
def test_wrong_options_are_explained(run: Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?i){message}"):
        run_branch(experiment(Watch()), Branch(**options, report=False, quiet=True), run.path)


def test_unfinished_rounds_have_no_branches(tmp_path: Path) -> None:
    watch = Watch()
    watch.interrupt("seed_0/round_01", 0, 1)
    with pytest.raises(Interrupted):
        find(tmp_path / "run", watch)
    with pytest.raises(ValueError, match="has not finished"):
        run_branch(experiment(Watch()), Branch("reinit", quiet=True), tmp_path / "run")
    with pytest.raises(ValueError, match="is not a run"):
        run_branch(experiment(Watch()), Branch("reinit", quiet=True), tmp_path / "nowhere")


def test_a_name_that_is_no_kind_retrains(run: Run) -> None:
    assert Branch("mine").kind == "retrain"
    assert Branch("reinit").kind == "reinit"
    assert Branch("mine", kind="finetune").kind == "finetune"


def test_the_dense_round_may_be_retrained(run: Run) -> None:
    tree, watch = branched(run, "dense_again", levels="0")
    assert watch.names == ["seed_0/round_00"]
    assert same(Snapshot.load(tree.round(0, 0) / "final.safetensors").weights, trained(run, 0))
    assert copied(Small()).keys() >= trained(run, 0).keys()


def test_the_way_to_another_rewinding_point_leaves_no_checkpoints(run: Run) -> None:
    tree, _ = branched(run, "rewind", {"at": "1ep"})
    assert not list(tree.path.rglob("*.ckpt"))
