"""A run that has left everything that a figure can show."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import left
import pytest
import synthetic
import torch

from ltpl.masks.mask import Mask
from ltpl.report import report
from ltpl.report.figures import NAMES
from ltpl.tickets.result import round_folder
from ltpl.tickets.snapshot import Snapshot


@pytest.fixture
def full(tmp_path: Path) -> Path:
    run, rng = tmp_path / "run", random.Random()
    synthetic.begin(run)
    shapes = {name: (size // 100, 100) for name, size in synthetic.SIZES.items()}
    for number in range(3):
        result = synthetic.result(0, number, rng, epochs=3.0)
        synthetic.save(run, [result])
        for name, point in (("reorder", "0it"), ("late", "20it")):
            made_by = {"policy": "rewind", "rewind": point}
            synthetic.save(run / "branches" / name, [replace(result, made_by=made_by)])
            left.path_csv(round_folder(run / "branches" / name, 0, number), left.bump(0.1))
            synthetic.metrics(run / "branches" / name, result, rng, range(0, 1001, 100))
        synthetic.metrics(run, result, rng, range(0, 1001, 100))
        folder = round_folder(run, 0, number)
        Mask({n: torch.rand(s) < 0.8**number for n, s in shapes.items()}).save(
            folder / "mask.safetensors"
        )
        values = Snapshot("0ep", {n: torch.randn(s) for n, s in shapes.items()}, {})
        values.save(folder / "final.safetensors")
        values.save(folder / "snapshot.safetensors")
        (folder / "robustness.csv").write_text("attack,eps,accuracy\npgd,0,0.9\npgd,0.1,0.5\n")
    (run / "branches" / "late" / "branch.json").write_text(json.dumps({"kind": "reorder"}))
    watched = left.record(left.detectors((0.3, 0.5)))
    (round_folder(run, 0, 0) / "early_bird.json").write_text(json.dumps(watched))
    (run / "report.json").write_text(json.dumps({"parameters": [20, 10]}))
    return run


def test_every_figure_is_on_the_page(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltpl.report.pictures.DPI", 36)  # quick
    page = report(full).read_text()
    pictures = {f"{name}.{ending}" for name in NAMES for ending in ("png", "svg")}
    assert {path.name for path in (full / "report").iterdir()} == pictures | {
        "index.html",
        "table.csv",
        "table.md",
        "table.tex",
        "differences.csv",
        "differences.md",
        "analysis.md",
    }
    assert page.count("<figure>") == len(NAMES)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert len(page) < 2_000_000
