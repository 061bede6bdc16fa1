"""What of a ticket is alive: in the result, on the screen and in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small import CLASSES, FEATURES, Interrupted, Small, Watch, find
from torch import Tensor
from torch.nn.functional import cross_entropy

from ltpl.report import read_runs, report, rows
from ltpl.tickets.result import Result

DEAD = {"amount": 0.995, "criterion": "random", "scope": "layer", "min_keep": 0}


def test_a_result_says_what_is_alive_of_its_ticket(tmp_path: Path) -> None:
    run = find(tmp_path, prune={"amount": 0.7})
    for result in run.results:
        mask = run.mask(result.round)
        paths = mask["net.4.weight"].double() @ mask["net.0.weight"].double()
        assert result.inputs == FEATURES
        assert result.live_inputs == int(paths.any(0).sum())
        assert result.live_paths == float(paths.sum())
        assert result.dead == []
    assert run.results[0].live_paths == FEATURES * 10 * CLASSES


@pytest.mark.filterwarnings("ignore:No weight is left")
def test_a_dead_network_raises_the_alarm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = find(tmp_path, prune=DEAD, quiet=False)
    result = run.results[1]
    assert (result.live_inputs, result.live_paths) == (0, 0.0)
    assert result.dead == ["net.0.weight", "net.4.weight"]
    lines = [x for x in capsys.readouterr().out.splitlines() if "no path" in x]
    assert len(lines) == 1
    for part in ("seed 0 round 1", "net.0.weight, net.4.weight", "rates", "min_keep", "global"):
        assert part in lines[0]
    page = report(tmp_path).read_text()
    alarm = page.index('<ul class="alarm">')
    assert alarm < page.index("<h2>All rounds</h2>")
    assert "round 1: no path of kept weights" in page[alarm:]
    assert rows(read_runs([tmp_path]))[1].dead == 1


def test_a_living_network_raises_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    find(tmp_path, quiet=False)
    assert "Alarm" not in capsys.readouterr().out
    assert 'class="alarm"' not in report(tmp_path).read_text()


def test_a_round_that_was_interrupted_after_its_last_step_knows_what_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halt(self: Any, batch: Any, batch_idx: int) -> None:
        raise Interrupted

    monkeypatch.setattr("ltpl.rounds.checkpoint.SHARE", float("inf"))  # save at every epoch's end
    whole = find(tmp_path / "whole").results
    watch = Watch()
    with monkeypatch.context() as patched:
        patched.setattr(Small, "test_step", halt)
        with pytest.raises(Interrupted):
            find(tmp_path / "halted", watch)
    again = find(tmp_path / "halted", watch).results
    assert watch.names.count("seed_0/round_00") == 1  # nothing was left to train
    for one, other in zip(whole, again, strict=True):
        assert (one.live_inputs, one.live_paths) == (other.live_inputs, other.live_paths)
        assert one.live_paths is not None


class Scattered(Small):
    """Its training step calls layers, not a network."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        for layer in self.net:
            x = layer(x)
        return cross_entropy(x, batch[1])


@pytest.mark.filterwarnings("ignore:No weight is left")
def test_where_it_cannot_be_known_only_empty_layers_are(tmp_path: Path) -> None:
    results = find(tmp_path, make_model=Scattered, prune=DEAD).results
    for result in results:
        assert (result.live_inputs, result.inputs, result.live_paths) == (None, None, None)
    assert [result.dead for result in results] == [[], ["net.0.weight", "net.4.weight"]]


def test_results_of_earlier_versions_load_and_are_reported(tmp_path: Path) -> None:
    run = find(tmp_path)
    for result in run.results:
        path = run.tree.round(0, result.round) / "result.json"
        content = json.loads(path.read_text())
        for name in ("live_inputs", "inputs", "live_paths", "dead", "files", "digest"):
            del content[name]
        content["format"] = "ltpl.result/1"
        path.write_text(json.dumps(content))
        old = Result.load(path)
        assert (old.live_inputs, old.inputs, old.live_paths, old.dead) == (None, None, None, [])
    report(tmp_path)
