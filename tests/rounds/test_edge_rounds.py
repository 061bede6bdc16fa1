"""Rounds that prune edges: each goes on from the graph of the one before, with a control."""

from __future__ import annotations

import csv
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from ltpl.callbacks import EdgePruning
from ltpl.callbacks.edge_rounds import edges_before, edges_of
from ltpl.cli import main
from ltpl.data.graphs import KarateClub, StochasticBlockModel
from ltpl.masks.edges import Edges, by_chance
from ltpl.models.graph import GCN
from ltpl.modules.node import NodeClassifier
from ltpl.rounds.find import Run, find_tickets
from ltpl.tickets import EdgeTicket
from ltpl.tickets.files import stored_digest
from ltpl.tickets.lineage import Lineage

pytest.importorskip("torch_geometric")
EPOCHS, TOTAL = 4, 78
LEFT = [TOTAL, 58, 44]  # a quarter of the rest goes each time


def model() -> NodeClassifier:
    optimizer = functools.partial(torch.optim.Adam, lr=0.02)
    return NodeClassifier(GCN(inputs=34, hidden=5, outputs=4, dropout=0.2), optimizer)


class Interrupted(Exception):
    pass


class Watch(pl.Callback):
    """Note which graphs the steps of each round see; interrupt one of the fits."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.seen: list[tuple[str, str, Tensor]] = []
        self._stop = stop

    def __deepcopy__(self, memo: Any) -> Watch:
        return self

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._here = "/".join(Path(trainer.default_root_dir).parts[-3:])
        forward = type(pl_module).forward

        def look(batch: Any) -> Tensor:
            self.seen.append((self._here, trainer.state.fn.value, batch.edge_index))
            return forward(pl_module, batch)

        pl_module.forward = look

    def graphs(self, folder: Path, stage: str | None = None) -> list[Tensor]:
        here = "/".join(folder.parts[-3:])
        return [g for name, fn, g in self.seen if name == here and stage in (None, fn)]

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._raise_at(trainer.current_epoch)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._raise_at(-1)

    def _raise_at(self, epoch: int) -> None:
        if self._stop is not None and self._here.endswith(self._stop[0]) and epoch == self._stop[1]:
            self._stop = None
            raise Interrupted


def find(
    folder: Path,
    edges: EdgePruning | None,
    *callbacks: Any,
    make_data: Any = KarateClub,
    **options: Any,
) -> Run:
    given: dict[str, Any] = {"levels": 2, "prune": {"amount": 0.2}, "report": False, "quiet": True}
    trainer = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "callbacks": [*callbacks, *([edges] if edges is not None else [])],
    }
    return find_tickets(model, make_data, run=folder, trainer=trainer, **(given | options))


def undirected(index: Tensor) -> set[tuple[int, int]]:
    return {(min(u, v), max(u, v)) for u, v in index.T.tolist()}


def logged(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row["edges/kept"]) for row in csv.DictReader(file) if row["edges/kept"]]


@pytest.mark.parametrize("criterion", ["learned", "degree", "random"])
def test_each_round_goes_on_with_what_the_one_before_kept(tmp_path: Path, criterion: str) -> None:
    watch = Watch()
    edges = EdgePruning(0.25, criterion, lr=0.1, control=False)
    run = find(tmp_path / "run", edges, watch)
    dense = EdgeTicket.load(run.tree.round(0, 0))
    whole = dense.edges.index
    assert dense.total == TOTAL
    for level, left in enumerate(LEFT):
        folder = run.tree.round(0, level)
        expected = whole if level == 0 else EdgeTicket.load(run.tree.round(0, level - 1)).edge_index
        assert len(undirected(expected)) == left
        assert logged(folder) == [left] * EPOCHS
        for stage in ("validate", "fit", "test"):
            seen = watch.graphs(folder, stage)
            assert seen
            assert all(torch.equal(graph, expected) for graph in seen)
    last = EdgeTicket.load(run.tree.round(0, 2) / "edges.safetensors")
    assert last.made_by == {"criterion": criterion, "amount": 0.25}
    assert last.kept == LEFT[2] - round(0.25 * LEFT[2])


def test_edges_alone_are_pruned_and_all_weights_stay(tmp_path: Path) -> None:
    run = find(tmp_path / "run", EdgePruning(0.25, control=False), prune={"amount": 0.0})
    assert [result.density for result in run.results] == [1.0, 1.0, 1.0]
    assert [logged(run.tree.round(0, level))[-1] for level in range(3)] == LEFT
    with pytest.raises(ValueError, match="Level 1 would prune nothing"):
        find(tmp_path / "none", None, prune={"amount": 0.0})


def test_replicates_of_random_edges_differ_and_their_graphs_are_nested(tmp_path: Path) -> None:
    run = find(tmp_path / "run", EdgePruning(0.25, "random", seed=4), seeds=[0, 1], levels=1)
    assert not (run.path / "branches").exists()  # random edges need no random control
    kept = []
    for seed in (0, 1):
        first, second = (EdgeTicket.load(run.tree.round(seed, level)).keep for level in (0, 1))
        assert torch.equal(first, by_chance(TOTAL, "random", 4, seed) < LEFT[1])
        assert not (second & ~first).any()
        kept.append(first)
    assert not torch.equal(*kept)


def test_the_control_has_as_many_edges_chosen_at_random(tmp_path: Path) -> None:
    watch = Watch()
    run = find(tmp_path / "run", EdgePruning(0.25, lr=0.1), watch)
    control = run.tree.branch("random_edges")
    assert [(r.round, r.branch) for r in control.results()] == [
        (1, "random_edges"),
        (2, "random_edges"),
    ]
    before: set[tuple[int, int]] | None = None
    for level, left in [(1, LEFT[1]), (2, LEFT[2])]:
        here = [undirected(graph) for graph in watch.graphs(control.round(0, level))]
        assert all(graph == here[0] for graph in here)
        assert len(here[0]) == left
        assert here[0] != undirected(EdgeTicket.load(run.tree.round(0, level - 1)).edge_index)
        assert before is None or here[0] < before
        before = here[0]
        ours, theirs = (tree.result(0, level) for tree in (run.tree, control))
        assert ours.made_by["mask_digest"] == theirs.made_by["mask_digest"]
        assert not (control.round(0, level) / "edges.safetensors").exists()


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    first, second = Watch(), Watch()
    run = find(tmp_path / "run", EdgePruning(0.25), first)
    files = {p: p.stat().st_mtime_ns for p in run.path.rglob("seed_*/round_*/*")}
    find(tmp_path / "run", EdgePruning(0.25), second)
    assert first.seen
    assert not second.seen
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("seed_*/round_*/*")} == files


def test_without_pruned_rounds_there_is_nothing_to_control(tmp_path: Path) -> None:
    run = find(tmp_path / "run", EdgePruning(), levels=0)
    assert not (run.path / "branches").exists()


def bits(folder: Path) -> dict[str, str | None]:
    return {
        str(file.relative_to(folder)): stored_digest(file)
        for file in sorted(folder.rglob("*.safetensors"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return find(tmp_path_factory.mktemp("whole"), EdgePruning(0.25, lr=0.1), Watch(), levels=1)


@pytest.mark.parametrize(
    "points",
    [
        [("seed_0/round_00", 1), ("seed_0/round_01", 2)],
        [("seed_0/round_00", EPOCHS - 1), ("seed_0/round_01", -1)],
        [("random_edges/seed_0/round_01", 1)],
    ],
)
def test_interrupted_rounds_end_with_the_same_bits(
    tmp_path: Path,
    whole: Run,
    points: Sequence[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ltpl.rounds.checkpoint.SHARE", 1e9)  # every epoch's end is saved
    for point in points:
        with pytest.raises(Interrupted):
            find(tmp_path / "again", EdgePruning(0.25, lr=0.1), Watch(point), levels=1)
    again = find(tmp_path / "again", EdgePruning(0.25, lr=0.1), Watch(), levels=1)
    assert bits(again.path) == bits(whole.path)
    assert "seed_0/round_01/edges.safetensors" in bits(whole.path)
    for level in range(2):
        assert logged(again.tree.round(0, level)) == logged(whole.tree.round(0, level))


def test_a_round_whose_edges_are_lost_is_run_again(tmp_path: Path) -> None:
    run = find(tmp_path / "run", EdgePruning(control=False), levels=1)
    before = bits(run.path)
    (run.tree.round(0, 1) / "edges.safetensors").unlink()
    again = find(tmp_path / "run", EdgePruning(control=False), levels=1)
    assert bits(again.path) == before


def test_a_round_needs_the_edges_of_the_round_before(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"edges\.safetensors is missing"):
        edges_before(tmp_path)


def test_edges_of_another_graph_are_refused() -> None:
    here, there = (graph_edges(nodes) for nodes in (16, 17))
    with pytest.raises(ValueError, match="is of another graph") as raised:
        edges_of(Lineage(0, 1, Path(), None, None), EdgeTicket(there, there.all()), here, seed=0)
    assert "\n" not in str(raised.value)


def graph_edges(nodes: int) -> Edges:
    data = StochasticBlockModel(blocks=2, nodes=nodes)
    data.setup("fit")
    return Edges.of(data.graph.edge_index)


def test_rounds_prune_when_a_round_has_ended(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"EdgePruning\.epoch=\[3\]: rounds prune when"):
        find(tmp_path / "run", EdgePruning(epoch=3))


COMMAND = [
    "--model=NodeClassifier",
    "--model.network=GCN",
    "--model.network.inputs=34",
    "--model.network.outputs=4",
    "--data=KarateClub",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--levels=1",
    "--report=false",
    "--quiet",
]


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_command_line_has_a_slot_and_branches_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ltpl"])
    run = tmp_path / "run"
    options = ["--edges=EdgePruning", "--edges.amount=0.25", "--edges.control=false"]
    main(["rounds", f"--run={run}", *COMMAND, *options[:2], "--trainer.fast_dev_run=true"])
    assert not run.exists()  # a dry run, with the control
    main(["rounds", f"--run={run}", *COMMAND, *options])
    assert EdgeTicket.load(run / "seed_0" / "round_00").kept == LEFT[1]
    assert not (run / "branches").exists()
    quiet = ["--report=false", "--quiet"]
    main(["branch", str(run), "--name=random_edges", "--kind=retrain", *quiet])
    main(["branch", str(run), "--name=hard", "--kind=retrain", "--edges.criterion=random", *quiet])
    for name in ("random_edges", "hard"):
        assert logged(run / "branches" / name / "seed_0" / "round_01") == [LEFT[1]] * 2
    assert json.loads((run / "run.json").read_text())["config"]["edges"]["init_args"]["lr"] == 0.002
    main(["rounds", f"--run={tmp_path / 'plain'}", *COMMAND, "--levels=0"])
    for folder, added, told in [
        (run, [], "0.25 -> None"),
        (tmp_path / "plain", options, "-> 0.25"),
    ]:
        with pytest.raises(SystemExit):
            main(["rounds", f"--run={folder}", *COMMAND, *added])
        assert told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["rounds", "--edges.help"])
    assert "Share of the remaining edges to prune each time" in capsys.readouterr().out
