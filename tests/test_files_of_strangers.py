"""Files from a stranger: nothing in them is run, and what they say is refused in one line."""

from __future__ import annotations

import contextlib
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ltpl
from ltpl import cli
from ltpl.data.packed import unpack
from ltpl.masks import Mask
from ltpl.masks.candidate import mask_at
from ltpl.rounds.checkpoint import newest_checkpoint
from ltpl.rounds.find import Run
from ltpl.rounds.plan import numbers
from ltpl.rounds.tree import RunTree
from ltpl.tickets import Snapshot
from ltpl.tickets.edges import EdgeTicket
from ltpl.tickets.files import save_state
from ltpl.tickets.path import read_path
from ltpl.tickets.result import Result
from ltpl.tickets.result import _digest as digest_of_result
from ltpl.tickets.ticket import Ticket
from ltpl.tickets.weights import load_weights_

pytestmark = [
    # Lightning 2.6 calls what jsonargparse 4.53 deprecates
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
]
STEERS = ("\x1b", "\x9b", "\r", "\u202e")
NAMES = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a\x1b[2Jb\u202e\x9bc",
    "&lt;",
]


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture(params=["pickle", "torch"])
def bomb(request: pytest.FixtureRequest, mark: Path) -> Callable[[str], Path]:
    """Write a file that leaves a mark when it is unpickled."""

    def written(name: str) -> Path:
        path = mark.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if request.param == "torch":
            torch.save({"state_dict": {"weight": Bomb(mark)}}, path)
        else:
            path.write_bytes(pickle.dumps(Bomb(mark)))
        return path

    return written


READERS: dict[str, Callable[[Path], Any]] = {
    "mask.safetensors": Mask.load,
    "snapshot.safetensors": Snapshot.load,
    "edges.safetensors": EdgeTicket.load,
    "path.csv": lambda path: read_path(path.parent),
    "compact.safetensors": ltpl.load,
    "final.safetensors": lambda path: load_weights_(nn.Linear(2, 2), path),
    "teacher.ckpt": lambda path: load_weights_(nn.Linear(2, 2), path),
    "epoch.ckpt": lambda path: mask_at(path, nn.Linear(2, 2), 0.5),
}


@pytest.mark.parametrize("name", READERS)
def test_no_reader_runs_a_pickle(name: str, bomb: Callable[[str], Path], mark: Path) -> None:
    path = bomb(name)
    with pytest.raises(ValueError, match=name) as refused:
        READERS[name](path)
    assert "\n" not in str(refused.value)
    assert not mark.exists()


def test_a_pickle_in_the_place_of_a_checkpoint_is_passed_over(
    bomb: Callable[[str], Path], mark: Path
) -> None:
    path = bomb("round_00/checkpoints/last.ckpt")
    with pytest.warns(UserWarning, match="passed over"):
        assert newest_checkpoint(path.parents[1]) is None
    assert unpack(bomb("train.packed.safetensors"), "digest") is None
    assert not mark.exists()


def test_the_bomb_goes_off_where_pickles_are_read(bomb: Callable[[str], Path], mark: Path) -> None:
    path = bomb("file.pt")
    with contextlib.suppress(RuntimeError):  # of torch, for what is no checkpoint
        torch.load(path, weights_only=False)
    if not mark.exists():
        pickle.loads(path.read_bytes())
    assert mark.exists()


@pytest.mark.parametrize("state", [{}, [1], {"weights": {"a": 1}}, {"step": "0ep", "more": 1}])
def test_a_snapshot_that_holds_something_else_is_refused(state: Any, tmp_path: Path) -> None:
    save_state(path := tmp_path / "snapshot.safetensors", state, "ltpl.snapshot/1")
    with pytest.raises(ValueError, match=r"is no ltpl\.snapshot/1"):
        Snapshot.load(path)
    save_state(path, state, "ltpl.edges/1")
    with pytest.raises(ValueError, match=r"is no ltpl\.edges/1"):
        EdgeTicket.load(path)


def test_a_ticket_that_does_not_say_how_it_was_made_is_refused(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    Snapshot.take("0ep", net).save(tmp_path / "snapshot.safetensors")
    Mask({"weight": torch.ones(2, 2).bool()}, {"made_by": "[1"}).save(tmp_path / "mask.safetensors")
    with pytest.raises(ValueError, match="does not say how its ticket was made"):
        Ticket.load(tmp_path)


@pytest.mark.parametrize("shape", [[10**15], [-2, -2], ["x"], [2.5], "x", None, [-1]])
def test_a_mask_is_no_larger_than_its_bits(shape: Any) -> None:
    bits = Mask({"weight": torch.ones(2, 2).bool()}).packed()
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        Mask.unpacked(bits, {"weight": shape})


def record(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": "ltpl.run/1", "levels": 1, "seeds": [0], "config": {}, **changes}
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def result(run: Path, **changes: Any) -> Path:
    path = run / "seed_0" / "round_00" / "result.json"
    sound = Result(0, 0, 3, 4, 5, [("fc.weight", 3, 4)], test={"loss": 0.5}, val_acc=0.5)
    sound.save(path)
    seal(path, {**json.loads(path.read_text()), **changes})
    return path


def seal(path: Path, content: dict[str, Any]) -> None:
    """Write a result with the digest that a stranger can compute too."""
    content = {name: value for name, value in content.items() if name != "digest"}
    path.write_text(json.dumps({**content, "digest": digest_of_result(content)}))


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that has to end with one line and exit code two; return the line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ltpl"])
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


RECORDS = [
    {"levels": 10**18},
    {"levels": -1},
    {"levels": "3"},
    {"levels": float("nan")},
    {"levels": True},
    {"seeds": [*range(10**6)]},
    {"seeds": ["../.."]},
    {"seeds": [-1]},
    {"seeds": "0"},
    {"seeds": {}},
    {"seeds": None},
    {"levels": None},
    {"config": []},
    {"config": None},
    {"config": {"levels": 10**18}},
    {"config": {"seeds": [0.5]}},
    {"config": {"densities": "0.5"}},
    {"config": {"one_shot": "yes"}},
    {"config": {"mask_seed": "x"}},
    {"config": {"test_at": 3}},
]


@pytest.mark.parametrize("changes", RECORDS, ids=lambda x: str(x)[:40])
def test_an_absurd_record_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    record(tmp_path / "run", **changes)
    with pytest.raises(ValueError, match="was not written by ltpl: it"):
        RunTree.existing(tmp_path / "run").read()


@pytest.mark.parametrize("command", ["status", "branch"])
@pytest.mark.parametrize(
    "text", ['{"format": "ltpl.run/1"}', "[" * 10**5, "\xff", "[1" + "0" * 5000]
)
def test_the_commands_say_so_in_one_line(
    command: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = record(tmp_path / "run")
    (run / "run.json").write_text(text, encoding="latin-1")
    more = ["--name=reinit"] if command == "branch" else []
    assert "run.json" in said([command, str(run), *more], capsys)


RESULTS = [
    {"seed": "../.."},
    {"seed": -1},
    {"round": 10**18},
    {"round": 1.5},
    {"kept": 5},
    {"kept": -1},
    {"total": "4"},
    {"parameters": 0},
    {"layers": [["fc", 1]]},
    {"layers": [[1, 1, 1]]},
    {"layers": {}},
    {"dead": "fc"},
    {"test": {"loss": "x"}},
    {"test": {"loss": 10**400}},
    {"test": [0.5]},
    {"val_acc": "high"},
    {"val_acc": 1e300},
    {"early_stop_step": -3},
    {"seconds": float("nan")},
    {"made_by": "me"},
    {"branch": 3},
    {"live_inputs": 3},
    {"unknown": 1},
]


@pytest.mark.parametrize("changes", RESULTS, ids=lambda x: str(x)[:40])
def test_an_absurd_result_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    path = result(run, **changes)
    with pytest.raises(ValueError, match="is no result of a round") as refused:
        assert Run.open(run).results
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_report_of_an_absurd_result_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = record(tmp_path / "run")
    path = result(run, round=10**18)
    assert str(path) in said(["report", str(run)], capsys)


def test_training_that_diverged_is_no_absurdity(tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    result(run, test={"loss": float("nan")}, end={"loss": float("inf")})
    assert len(Run.open(run).results) == 1


@pytest.mark.parametrize("text", ["0-999999999999", "0-9999999,5", str(2**64), "9" * 6000])
def test_a_range_without_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"seeds|limit"):
        numbers(text, "seeds")


@pytest.mark.parametrize("place", ["seed_0", "branches", "seed_0/round_00", "summary"])
def test_nothing_is_written_or_removed_through_a_link_out_of_the_run(
    place: str, tmp_path: Path
) -> None:
    outside = tmp_path / "home"
    (outside / "round_00").mkdir(parents=True)
    (outside / ".profile").write_text("precious")
    run = record(tmp_path / "run")
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).symlink_to(outside)
    for tree in (RunTree.existing(run), RunTree.existing(run).branch("reinit")):
        with pytest.raises(ValueError, match="leads to"):
            tree.begin({"other": 1}, levels=1, seeds=[0])
    assert sorted(p.name for p in outside.rglob("*")) == [".profile", "round_00"]


def test_a_run_may_lie_behind_a_link(tmp_path: Path) -> None:
    record(tmp_path / "disk" / "run")
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    RunTree.existing(tmp_path / "runs" / "run").begin({}, levels=2, seeds=[0])
    assert RunTree.existing(tmp_path / "disk" / "run").read()["levels"] == 2


def test_no_page_is_written_through_a_link(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = record(tmp_path / "run")
    result(run)
    (tmp_path / "home").mkdir()
    (run / "report").symlink_to(tmp_path / "home")
    assert "--out" in said(["report", str(run)], capsys)
    assert not list((tmp_path / "home").iterdir())


def hostile(folder: Path) -> Path:
    """Return a run that says names of a stranger wherever it can."""
    many = dict.fromkeys(NAMES, 0.5)
    run = record(
        folder / NAMES[0].replace("/", "_"),
        config=dict(zip(NAMES, NAMES, strict=True)),
        versions=dict(zip(NAMES, NAMES, strict=True)),
        command=NAMES,
        **{NAMES[1]: "\ud800"},
    )
    layers = [[name, 0, 1] for name in NAMES]
    path = result(run, layers=layers, dead=NAMES, test=many, end=many, start=many, early_stop=many)
    path.with_name("metrics.csv").write_text(
        "step,val/loss<script>,val/acc\n1,0.5,0.5\n1e300,1,1\n2,1e308,1\nx\x00y\n"
        + f'3,"{"z" * 200_000}",1\n'
    )
    for name in NAMES[1:]:
        branch = run / "branches" / name
        kind = {"format": "ltpl.run/1", "kind": name, "seeds": [0], "rounds": [0], "config": {}}
        branch.mkdir(parents=True)
        (branch / "branch.json").write_text(json.dumps(kind))
        there = branch / "seed_0" / "round_00" / "result.json"
        there.parent.mkdir(parents=True)
        seal(there, {**json.loads(path.read_text()), "branch": name})
    return run


def test_a_page_shows_names_and_runs_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = hostile(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ltpl"])
    cli.main(["report", str(run)])
    cli.main(["status", str(run)])
    written = [p for p in (run / "report").iterdir() if p.suffix in (".html", ".svg", ".md")]
    assert {p.suffix for p in written} == {".html", ".svg", ".md"}
    for file in [*written, run / "report" / "table.csv"]:
        text = file.read_bytes().decode()
        assert not any(sign in text for sign in STEERS), file.name
        if file.suffix != ".csv":
            assert "<script" not in text.replace("\\<script", "")
            assert "<img" not in text.replace("\\<img", "")
    page = (run / "report" / "index.html").read_text()
    assert "&lt;script&gt;" in page
    assert "&amp;lt;" in page
    shown = capsys.readouterr().out
    assert "img" in shown
    assert not any(sign in shown for sign in STEERS)


def test_an_error_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = record(tmp_path / "run", levels="\x1b]0;title\x07")
    line = said(["status", str(run)], capsys)
    assert not any(sign in line for sign in STEERS)
    assert "x1b" in line
