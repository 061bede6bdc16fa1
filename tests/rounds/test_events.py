"""What TensorBoard shows of a round, each thing once, also of one that was interrupted."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small import BATCHES, EPOCHS, Data, Interrupted, Small, Watch, find
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.nn.functional import cross_entropy

from ltpl.callbacks import Trajectory
from ltpl.rounds.find import Run
from ltpl.tickets.result import Result

DENSE, PRUNED = "seed_0/round_00", "seed_0/round_01"
LAYERS = ("net.0.weight", "net.4.weight")
ALL = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
LATE = {"rewind": {"epoch": 1}}


@pytest.fixture(autouse=True)
def _every_epoch_end_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltpl.rounds.checkpoint.SHARE", 1e9)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return find(tmp_path_factory.mktemp("run"), callbacks=[Trajectory()], **LATE)


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance=ALL).Reload()


def shown(folder: Path) -> dict[str, list[Any]]:
    """Everything but times: by tag, steps and values; of pictures and texts their bytes."""
    events = read(folder)
    tags = events.Tags()
    found: dict[str, list[Any]] = {}
    for tag in tags["scalars"]:
        found[tag] = [(e.step, e.value) for e in events.Scalars(tag)]
    for tag in tags["images"]:
        found[tag] = [(e.step, e.encoded_image_string) for e in events.Images(tag)]
    for tag in tags["histograms"]:
        found[tag] = [(e.step, e.histogram_value) for e in events.Histograms(tag)]
    for tag in tags["tensors"]:
        found[tag] = [(e.step, e.tensor_proto.string_val[0]) for e in events.Tensors(tag)]
    found["options"] = [options(folder)]
    del found["final/seconds"]
    return found


def told(folder: Path, kind: str) -> HParamsPluginData:
    metadata = read(folder).SummaryMetadata(f"_hparams_/{kind}")
    return HParamsPluginData.FromString(metadata.plugin_data.content)


def options(folder: Path) -> dict[str, Any]:
    found = told(folder, "session_start_info").session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def test_the_first_point_is_the_ticket_before_training(run: Run) -> None:
    for level, start in ((DENSE, 0), (PRUNED, BATCHES)):
        result = run.results[int(level == PRUNED)]
        points = shown(run.path / level)["val_acc"]
        assert points[0] == (start, pytest.approx(result.start["val_acc"]))
        with (run.path / level / "metrics.csv").open() as file:
            row = next(csv.DictReader(file))
        assert (int(row["step"]), float(row["val_acc"])) == points[0]


def test_every_round_has_the_same_tags(run: Run) -> None:
    dense, pruned = (read(run.path / level).Tags() for level in (DENSE, PRUNED))
    pruned["scalars"].remove("final/pruned_acc")  # the dense network was not pruned
    assert dense == pruned
    tags = ["train_loss", "val_acc", "ticket/density", *(f"ticket/layers/{n}" for n in LAYERS)]
    assert set(tags) <= set(dense["scalars"])
    assert dense["images"] == [f"ticket/mask/{LAYERS[0]}"]
    assert dense["histograms"] == [f"weights/{name}" for name in LAYERS]
    assert set(dense["tensors"]) == {"config/text_summary", "custom_scalars__config__"}


def test_density_is_there_without_any_callback(tmp_path: Path) -> None:
    run = find(tmp_path, trainer={"max_epochs": 1})
    for level, result in zip((DENSE, PRUNED), run.results, strict=True):
        found = shown(run.path / level)
        ends = [0, BATCHES]
        assert found["ticket/density"] == [(s, pytest.approx(result.density)) for s in ends]
        assert found["ticket/kept"] == [(step, result.kept) for step in ends]
        for name, kept, total in result.layers:
            points = [(step, pytest.approx(kept / total)) for step in ends]
            assert found[f"ticket/layers/{name}"] == points
        with (run.path / level / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["ticket/density"]]
        assert [int(row["step"]) for row in rows] == ends
        assert {float(row["ticket/density_all"]) for row in rows} == {result.density_all}


def test_what_came_out_stands_beside_what_it_came_from(run: Run) -> None:
    columns = set()
    for level, result in zip((DENSE, PRUNED), run.results, strict=True):
        folder, pruned = run.path / level, level == PRUNED
        assert options(folder) == {
            "seed": 0,
            "round": int(pruned),
            "density": result.density,
            "amount": 0.5 * pruned,
            "policy": "rewind" if pruned else "dense",
            "rewind": "1ep",
            "branch": "main line",
        }
        found = shown(folder)
        for name in ("val_acc", "test_acc", "start_acc", "early_stop_step", "epochs"):
            value = getattr(result, name)
            assert found[f"final/{name}"] == [(BATCHES * EPOCHS, pytest.approx(value))]
        experiment = told(folder, "experiment").experiment
        assert {f"final/{n}" for n in ("val_acc", "pruned_acc", "epochs")} <= {
            metric.name.tag for metric in experiment.metric_infos
        }
        columns.add(str(experiment))
        assert not [path for path in folder.iterdir() if path.is_dir() and path.name[0].isdigit()]
    assert len(columns) == 1  # TensorBoard takes those of one round for all


def test_config_and_charts_are_shown(run: Run) -> None:
    for level in (DENSE, PRUNED):
        found = shown(run.path / level)
        ((step, text),) = found["config/text_summary"]
        lines = text.decode().splitlines()
        assert all(line.startswith("    ") for line in lines)
        config = yaml.safe_load((run.path / level / "config.yaml").read_text())
        assert (step, yaml.safe_load(text.decode())) == (0, config)
        ((_, charts),) = found["custom_scalars__config__"]
        layout = Layout.FromString(charts)
        tags = {tag for c in layout.category for chart in c.chart for tag in chart.multiline.tag}
        assert {"ticket/layers/", "val.*acc"} <= tags


POINTS = [(DENSE, 1, 3), (DENSE, -1, -2), (PRUNED, 1, 2), (PRUNED, 2, 1)]


def test_an_interrupted_round_shows_everything_once(tmp_path: Path, run: Run) -> None:
    watch = Watch()
    for point in POINTS:
        watch.interrupt(*point)
        with pytest.raises(Interrupted):
            find(tmp_path, watch, callbacks=[Trajectory()], save_every_n_steps=3, **LATE)
    again = find(tmp_path, watch, callbacks=[Trajectory()], save_every_n_steps=3, **LATE)
    for level in (DENSE, PRUNED):
        expected, found = shown(run.path / level), shown(again.path / level)
        for each in (expected, found):
            each.pop("config/text_summary")  # other callbacks, other folders
            each.pop("epoch")  # of which Lightning itself writes several a step
        assert found == expected
        for tag, points in found.items():
            if tag != "options":
                assert [step for step, _ in points] == sorted({step for step, _ in points}), tag
        assert len(shown(again.path / level)["config/text_summary"]) == 1


def test_a_round_interrupted_before_its_result_shows_its_outcome_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise Interrupted

    options = {"levels": 0, "callbacks": [Trajectory()], "trainer": {"max_epochs": 1}}
    save = Result.save
    monkeypatch.setattr(Result, "save", interrupted)
    with pytest.raises(Interrupted):
        find(tmp_path, **options)
    monkeypatch.setattr(Result, "save", save)
    run = find(tmp_path, **options)
    found = shown(run.path / DENSE)
    for tag in ("final/val_acc", "test_acc", f"weights/{LAYERS[0]}"):
        assert [step for step, _ in found[tag]] == [BATCHES]
    assert [step for step, _ in found[f"ticket/mask/{LAYERS[0]}"]] == [0]


class Two(Small):
    """Two optimisers, so that there are two steps for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()
        self.log("train_loss", loss)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[place].parameters(), lr=0.1) for place in (0, 4)]


def test_with_two_optimisers_no_step_is_logged_twice(tmp_path: Path) -> None:
    watch = Watch()
    watch.interrupt(DENSE, 2, 1)
    given = {"levels": 0, "callbacks": [Trajectory()]}
    with pytest.raises(Interrupted):
        find(tmp_path, watch, Two, Data, **given)
    run = find(tmp_path, watch, Two, Data, **given)
    with (run.path / DENSE / "metrics.csv").open() as file:
        rows = [int(row["step"]) for row in csv.DictReader(file)]
    assert rows == list(range(BATCHES * EPOCHS + 1))
    losses = shown(run.path / DENSE)["train_loss"]
    assert [step for step, _ in losses] == list(range(BATCHES * EPOCHS))
