from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import torch
from torch import Tensor

from ltpl.masks.mask import Mask
from ltpl.report import read_runs, weights
from ltpl.tickets.result import round_folder
from ltpl.tickets.snapshot import Snapshot

Weights = dict[str, Tensor]


def kept_run(
    folder: Path, shapes: dict[str, tuple[int, ...]], levels: int, step: str = "0ep"
) -> tuple[list[Mask], Weights, list[Weights]]:
    """Write a run of one seed with weights in it; return masks, initial and final weights."""
    rng = random.Random()
    initial = {name: torch.randn(shape) for name, shape in shapes.items()}
    masks, finals = [], []
    for number in range(levels):
        final = {name: torch.randn(shape) for name, shape in shapes.items()}
        keep = {n: torch.rand(shape) < 0.6**number for n, shape in shapes.items()}
        layers = [(n, int(k.sum()), k.numel()) for n, k in keep.items()]
        kept, total = sum(k for _, k, _ in layers), sum(t for *_, t in layers)
        result = synthetic.result(3, number, rng, layers=layers, kept=kept, total=total)
        synthetic.save(folder, [result])
        path = round_folder(folder, 3, number)
        Mask(keep).save(path / "mask.safetensors")
        Snapshot("end", final, {}).save(path / "final.safetensors")
        masks.append(Mask(keep))
        finals.append(final)
    Snapshot(step, initial, {}).save(round_folder(folder, 3, 0) / "snapshot.safetensors")
    synthetic.begin(folder)
    return masks, initial, finals


def heights(axes: Any) -> list[Any]:
    return [patch.get_data().values for patch in axes.patches]


def test_histograms_are_those_of_the_weights_that_are_left(tmp_path: Path, captured: Any) -> None:
    shapes = {"net.a.weight": (40, 30), "net.b.weight": (20, 10)}
    masks, initial, finals = kept_run(tmp_path, shapes, levels=3)
    figure, caption = captured(lambda: weights.weights(read_runs([tmp_path])))
    assert len(figure.axes) == 6
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]
    shares = [axes.get_title() for axes in figure.axes[:3]]
    assert shares[0] == "100 %"
    assert shares[2] == f"{100 * masks[2].density:.1f} %"
    for row, found in enumerate(([initial] * 3, finals)):
        for column, level in enumerate(found):
            axes = figure.axes[3 * row + column]
            for patch, name in zip(axes.patches, shapes, strict=True):
                values = level[name][masks[column][name]].numpy()
                counts, edges = np.histogram(values, patch.get_data().edges)
                drawn = patch.get_data().values * len(values) * np.diff(edges)
                np.testing.assert_allclose(drawn, counts, atol=1e-6)
    assert "one seed (seed 3)" in caption
    assert "at initialisation" in caption


def test_at_least_what_the_caption_says_lies_inside(tmp_path: Path) -> None:
    torch.manual_seed(random.randrange(10**6))
    values = [{"a": torch.randn(5000).numpy(), "b": 7 * torch.randn(300).numpy()}]
    width = weights.reach(values)
    for found in values[0].values():
        assert (np.abs(found) <= width).mean() >= weights.SHOWN
        shown, edges = weights.histogram(found, width)
        assert (shown * np.diff(edges)).sum() == pytest.approx((np.abs(found) <= width).mean())


def test_the_rewinding_point_and_rounds_that_are_chosen_are_named(
    tmp_path: Path, captured: Any
) -> None:
    masks, *_ = kept_run(tmp_path, {"a.weight": (30, 30), "b.weight": (9, 9)}, 4, step="2ep")
    figure, caption = captured(lambda: weights.weights(read_runs([tmp_path]), [1, 3]), 1)
    assert "at the rewinding point, 2ep," in caption
    titles = {axes.get_title() for axes in figure.axes}
    assert titles == {f"{100 * masks[k].density:.1f} %" for k in (1, 3)}
    above, below = (axes.get_position() for axes in figure.axes[:2])
    assert above.x0 == below.x0
    assert above.y0 > below.y1


def test_of_many_layers_some_are_drawn_and_the_caption_says_so(
    tmp_path: Path, captured: Any
) -> None:
    kept_run(tmp_path, {f"net.{k}.weight": (4, 5) for k in range(21)}, levels=2)
    figure, caption = captured(lambda: weights.weights(read_runs([tmp_path])))
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["0", "4", "8", "12", "16", "20"]
    assert "Of 21 layers 6 are drawn" in caption


def test_large_layers_are_counted_in_part(
    tmp_path: Path, captured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MOST_WEIGHTS", 1000)
    kept_run(tmp_path, {"a.weight": (50, 50), "b.weight": (10, 10)}, levels=1)
    (level,) = weights.kept_weights(read_runs([tmp_path])[0], None).levels
    assert [len(values) for values in level.final.values()] == [834, 100]
    _, caption = captured(lambda: weights.weights(read_runs([tmp_path])))
    assert "more than 1,000 weights every k-th is counted" in caption


@pytest.mark.parametrize("name", ["mask.safetensors", "final.safetensors"])
def test_a_round_that_has_lost_a_file_is_left_out(tmp_path: Path, captured: Any, name: str) -> None:
    kept_run(tmp_path, {"a.weight": (30, 30), "b.weight": (9, 9)}, levels=3)
    (round_folder(tmp_path, 3, 1) / name).unlink()
    damaged = round_folder(tmp_path, 3, 2) / name
    damaged.write_bytes(damaged.read_bytes()[:-100])
    figure, _ = captured(lambda: weights.weights(read_runs([tmp_path])))
    assert [axes.get_title() for axes in figure.axes] == ["100 %", ""]


def test_without_weights_there_is_no_figure(tmp_path: Path) -> None:
    kept_run(tmp_path, {"a.weight": (3, 3), "b.weight": (2, 2)}, levels=2)
    (round_folder(tmp_path, 3, 0) / "snapshot.safetensors").unlink()
    assert weights.weights(read_runs([tmp_path])) is None


def test_what_diverged_or_is_empty_is_left_out(tmp_path: Path, captured: Any) -> None:
    kept_run(tmp_path, {"a.weight": (9, 9), "b.weight": (9, 9)}, levels=1)
    path = round_folder(tmp_path, 3, 0)
    nothing = torch.zeros(9, 9, dtype=torch.bool)
    Mask({"a.weight": ~nothing, "b.weight": nothing}).save(path / "mask.safetensors")
    broken = {"a.weight": torch.full((9, 9), torch.nan), "b.weight": torch.ones(9, 9)}
    Snapshot("end", broken, {}).save(path / "final.safetensors")
    figure, _ = captured(lambda: weights.weights(read_runs([tmp_path])))
    assert [len(heights(axes)) for axes in figure.axes] == [1, 0]
