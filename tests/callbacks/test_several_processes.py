"""Two and three processes hold the masks of one, agree on them, and write and speak once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import processes
import pytest
import several_processes as script
import torch

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*these norms take their statistics across channels"),
    pytest.mark.filterwarnings("ignore:.*scaling factors differ before training"),
    pytest.mark.filterwarnings("ignore:.*hardly training that chose it"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]
SCORED_ALONE = ("own",)  # a criterion of the user that knows nothing of other processes


class Runs:
    """What the same script does in one process, and in several."""

    def __init__(self, folder: Path, several: int) -> None:
        self.folder, self.several = folder, several
        (folder / "several").mkdir(parents=True)
        self.said = processes.run("several_processes.py", folder / "several", str(several))
        paths = [folder / "several" / f"rank{rank}.pt" for rank in range(several)]
        self.ranks: list[dict[str, Any]] = [torch.load(path) for path in paths]

    def files(self, kind: str, name: str) -> list[str]:
        root = self.folder / kind / name
        return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), request.param)


@pytest.mark.parametrize("name", script.CASES)
def test_several_processes_are_as_one(runs: Runs, name: str) -> None:
    first, *others = (rank["found"][name] for rank in runs.ranks)
    alone = script.fit(runs.folder / "one", name, 1)
    assert not all(keep.all() for keep in first["mask"].values())
    for other in others:
        assert other["mask"].keys() == first["mask"].keys()
        for kind in ("mask", "weights"):
            for key, value in first[kind].items():
                assert torch.equal(value, other[kind][key])
    assert runs.files("one", name) == runs.files("several", name)
    if name in SCORED_ALONE:
        return
    assert alone["mask"].keys() == first["mask"].keys()
    for key, keep in alone["mask"].items():
        assert torch.equal(first["mask"][key], keep)
    for key, weight in alone["weights"].items():
        # the weights of edges are trained in single precision
        close = {"rtol": 1e-4, "atol": 1e-6} if name == "edges" else {"rtol": 1e-9, "atol": 1e-12}
        torch.testing.assert_close(first["weights"][key], weight, **close)


@pytest.mark.parametrize("what", script.TAMPERED)
def test_what_differs_is_said_on_every_process(runs: Runs, what: str) -> None:
    first, *others, last = (rank["errors"][what] for rank in runs.ranks)
    who = {"rewind": "RewindToEpoch", "reinit": "RewindToEpoch", "early bird": "early_bird"}
    name = script.TAMPERED[what][0]
    callback = who.get(name) or type(script.CASES[name]()[0]).__name__
    assert first.startswith(f"{callback}: ")
    assert f"; rank {runs.several - 1}: " in first
    assert "rank 0, 1: " in first or runs.several == 2
    assert "\n" not in first
    assert all(other == first for other in others)
    assert last == first or what == "edges of another graph"


def test_one_process_speaks(runs: Runs) -> None:
    lines = runs.said.splitlines()
    for policy in ("rewind", "reinit"):
        begins = f"RewindToEpoch: after 2 epochs, {policy}"
        assert sum(line.startswith(begins) for line in lines) == 1
    slimmed = 3  # "slimming", "taylor" and "channels"
    assert sum("these norms take their statistics across" in line for line in lines) == slimmed
    assert sum("in only" in line and "early_bird_0.5" in line for line in lines) == 1
