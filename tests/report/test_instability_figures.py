"""Instability against the rewinding step, its table, and both from shipped results."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import synthetic
from left import bump, path_csv

from ltpl.report import instability, read_runs, report
from ltpl.report.instability_table import instability_table
from ltpl.report.rewinding_point import rewinding_point, steps_until
from ltpl.rounds.tree import RunTree
from ltpl.tickets.result import round_folder
from ltpl.tickets.step import Step


def branch(
    run: Path,
    name: str,
    at: str,
    heights: dict[int, list[float]],
    kind: str = "reorder",
    of: str | None = None,
    rewind: dict[str, Any] | None = None,
    recorded: bool = True,
    raw: bool = False,
) -> None:
    """Write a branch with the rewinding point in its results, or only in its options."""
    folder, rng = run / "branches" / name, random.Random()
    made_by = {"policy": "rewind", "rewind": at} if recorded else {}
    found = [
        synthetic.result(s, k, rng, made_by=made_by)
        for k in heights
        for s in range(len(heights[k]))
    ]
    synthetic.save(folder, found)
    config = {
        "branch": {"kind": kind} | ({"of": of} if of else {}),
        "rewind": {"init_args": {"epoch": 0, "at": at, "policy": "rewind"} | (rewind or {})},
    }
    (folder / "branch.json").write_text(json.dumps({"kind": kind, "config": config}))
    for each in found:
        if kind == "reorder":
            height = bump(heights[each.round][each.seed])
            path_csv(round_folder(folder, each.seed, each.round), height, raw)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A dense training of 16 epochs of 44 steps, and its levels."""
    folder, rng = synthetic.begin(tmp_path / "run"), random.Random()
    more = {"steps": 704, "epochs": 16.0}
    synthetic.save(
        folder, [synthetic.result(s, k, rng, **more) for s in range(2) for k in range(4)]
    )
    return folder


def rise(*heights: float) -> float:
    rises = [max(bump(h)(k / 10) for k in range(11)) - 0.025 for h in heights]
    return 100 * sum(rises) / len(rises)


@pytest.mark.parametrize("recorded", [True, False])
def test_each_density_is_a_line_over_the_steps_that_trainings_part_from(
    run: Path, captured: Any, recorded: bool
) -> None:
    branch(run, "from_0", "0it", {0: [0.4, 0.2], 2: [0.5, 0.3]}, recorded=recorded)
    branch(run, "at_70", "70it", {2: [0, 0]}, kind="ladder", recorded=recorded)
    branch(run, "from_70", "70it", {0: [0.1, 0.0], 2: [0.2, 0.2]}, of="at_70", recorded=recorded)
    branch(run, "late", "2ep12it", {2: [0.0, 0.1]}, recorded=recorded)
    if not recorded:  # the tickets of the main line say nothing of their own
        for file in run.glob("seed_*/round_*/result.json"):
            content = json.loads(file.read_text())
            content.pop("digest")
            content |= {"format": "ltpl.result/1", "made_by": {}}
            file.write_text(json.dumps(content))
    figure, caption = captured(lambda: instability.by_rewinding_point(read_runs([run])))
    (axes,) = figure.axes
    dense, ticket, stable = axes.lines
    assert list(dense.get_xdata()) == [0, 70]
    assert list(dense.get_ydata()) == pytest.approx([rise(0.4, 0.2), rise(0.1, 0.0)])
    assert list(ticket.get_xdata()) == [0, 70, 2 * 44 + 12]
    assert list(ticket.get_ydata()) == pytest.approx(
        [rise(0.5, 0.3), rise(0.2, 0.2), rise(0.0, 0.1)]
    )
    assert set(stable.get_ydata()) == {2}
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["dense", "64.0 % left", "2 points"]
    assert axes.get_xlabel() == "rewinding step"
    corners = axes.collections[0].get_paths()[0].vertices
    assert max(y for x, y in corners if x == 0) == pytest.approx(rise(0.4))
    assert "mean over n = 2 seeds" in caption


def test_interpolated_statistics_are_dotted(run: Path, captured: Any) -> None:
    branch(run, "from_0", "0it", {0: [0.4]}, raw=True)
    branch(run, "from_9", "9it", {0: [0.1]}, raw=True)
    figure, caption = captured(lambda: instability.by_rewinding_point(read_runs([run])))
    raw, again, _ = figure.axes[0].lines
    assert raw.get_linestyle() != again.get_linestyle() == "-"
    assert "dotted: interpolated" in caption


def test_one_step_is_no_figure(run: Path) -> None:
    branch(run, "from_0", "0it", {0: [0.4], 2: [0.1]})
    branch(run, "again", "0ep", {0: [0.4], 2: [0.1]})
    runs = read_runs([run])
    assert instability.by_rewinding_point(runs) is None
    assert instability.by_weights_left(runs) is not None


def test_of_two_branches_from_one_step_the_first_is_drawn(run: Path, captured: Any) -> None:
    for name, at, height in (("a", "0it", 0.4), ("b", "0it", 0.2), ("c", "5it", 0.1)):
        branch(run, name, at, {0: [height]})
    figure, caption = captured(lambda: instability.by_rewinding_point(read_runs([run])))
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(rise(0.4))
    assert "the first is drawn" in caption


def test_chosen_rounds_are_drawn(run: Path, captured: Any) -> None:
    for at in (0, 20):
        branch(run, f"from_{at}", f"{at}it", {k: [0.2] for k in range(4)})
    figure, _ = captured(lambda: instability.by_rewinding_point(read_runs([run]), [1, 3]))
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["80.0 % left", "51.2 % left", "2 points"]


def test_only_rewound_tickets_are_placed(run: Path) -> None:
    branch(run, "from_0", "0it", {0: [0.4], 2: [0.2]})
    branch(run, "random", "20it", {2: [0]}, kind="random_mask")
    branch(run, "of_random", "20it", {2: [0.2]}, of="random")
    branch(
        run, "tuned", "20it", {2: [0]}, kind="ladder", rewind={"policy": "finetune"}, recorded=False
    )
    branch(run, "of_tuned", "20it", {2: [0.2]}, of="tuned", recorded=False)
    branch(run, "of_unknown", "20it", {2: [0.2]}, of="finetune", recorded=False)
    (found,) = read_runs([run])
    assert instability.by_rewinding_point([found]) is None
    points = {b.branch: rewinding_point(found, b, 2) for b in found.branches}
    known = {"from_0": Step(None, 0), "of_random": Step(None, 20)}
    assert points == {**dict.fromkeys(points), **known}


@pytest.mark.parametrize(
    "rewind",
    [None, [], {}, {"init_args": 3}, {"init_args": {"at": "soon"}}, {"init_args": {"at": 7}}],
)
def test_what_a_branch_does_not_say_leaves_it_out(run: Path, rewind: Any) -> None:
    branch(run, "from_9", "9it", {0: [0.4]})
    branch(run, "unsaid", "0it", {0: [0.4]}, recorded=False)
    file = run / "branches" / "unsaid" / "branch.json"
    file.write_text(json.dumps({"kind": "reorder", "config": {"rewind": rewind}}))
    assert instability.by_rewinding_point(read_runs([run])) is None


def test_epochs_of_unknown_length_have_no_step(run: Path) -> None:
    (found,) = read_runs([run])
    assert steps_until(found, Step(3, 5)) == 137
    assert steps_until(found, Step(0, 5)) == 5
    assert steps_until(found, Step(None, 10**16)) is None
    for result in found.main.results:
        object.__setattr__(result, "epochs", None)
    assert steps_until(found, Step(3, 5)) is None
    assert steps_until(found, Step(0)) == 0


def shipped(run: Path, to: Path) -> Path:
    """Copy what an experiment ships of a run whose branches have paths."""
    for folder in (run, *(run / "branches").glob("*")):
        RunTree(folder).write_summary()
    for name in ("summary.csv", "branch.json", "path.csv"):
        for path in run.rglob(name):
            there = to / path.relative_to(run)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, there)
    return to


def test_shipped_paths_give_the_figures_and_the_table(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch(run, "from_0", "0it", {0: [0.4, 0.2], 2: [0.5, 0.3]}, raw=True)
    branch(run, "at_70", "70it", {2: [0, 0]}, kind="ladder")
    branch(run, "from_70", "70it", {0: [0.1, 0.0], 2: [0.2, 0.2]}, of="at_70", raw=True)
    copy = shipped(run, tmp_path / "results")
    assert not list(copy.rglob("result.json"))
    (found,), (theirs,) = read_runs([copy]), read_runs([run])
    assert instability_table(found) == instability_table(theirs)
    monkeypatch.setattr("ltpl.report.pictures.DPI", 36)  # quick
    written = {path.name for path in report(copy).parent.iterdir()}
    assert {"paths.svg", "instability.svg", "instability_rewind.svg"} <= written


def test_the_table_says_mean_and_ends(run: Path) -> None:
    branch(run, "from_0", "0it", {0: [0.4, 0.2], 2: [0.5]}, raw=True)
    branch(run, "from_1", "1ep", {0: [0.1, 0.1]})
    (found,) = read_runs([run])
    table = instability_table(found)
    assert table.head == [
        *("branch", "rewinding point", "weights left, %", "seeds"),
        *("instability, validation error", "with raw statistics"),
    ]
    both = f"{rise(0.4, 0.2):.1f} ({rise(0.2):.1f} to {rise(0.4):.1f})"
    assert table.lines == [
        ["from_0", "0it", "100", "2", both, both],
        ["from_0", "0it", "64.0", "1", f"{rise(0.5):.1f}", f"{rise(0.5):.1f}"],
        [
            "from_1",
            "1ep",
            "100",
            "2",
            *[f"{rise(0.1):.1f} ({rise(0.1):.1f} to {rise(0.1):.1f})", ""],
        ],
    ]
    shutil.rmtree(run / "branches")
    with pytest.raises(ValueError, match=r"no branch has a path\.csv"):
        instability_table(read_runs([run])[0])
