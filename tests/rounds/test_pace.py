from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar
from pytorch_lightning.profilers import SimpleProfiler

from ltpl.rounds.pace import brisk


def bars(options: dict[str, Any], package: str = "pytorch_lightning") -> list[Any]:
    kinds = sys.modules[f"{package}.callbacks"]
    callbacks = brisk(package, options).get("callbacks", [])
    return [each for each in callbacks if isinstance(each, kinds.ProgressBar)]


def test_a_trainer_gets_a_bar_and_a_profiler_of_its_own_package() -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    for package, profiler in (
        ("pytorch_lightning", pl.profilers.PassThroughProfiler),
        ("lightning.pytorch", lightning.profilers.PassThroughProfiler),
    ):
        assert len(bars({}, package)) == 1
        assert isinstance(brisk(package, {})["profiler"], profiler)


def test_what_the_user_gives_is_used() -> None:
    profiler, bar = SimpleProfiler(), TQDMProgressBar()
    found = brisk("pytorch_lightning", {"profiler": profiler, "callbacks": bar})
    assert found["profiler"] is profiler
    assert bars({"callbacks": [bar]}) == [bar]


def test_the_given_options_stay_as_they_are() -> None:
    given: dict[str, Any] = {"callbacks": [pl.Callback()]}
    brisk("pytorch_lightning", given)
    assert list(given) == ["callbacks"]
    assert len(given["callbacks"]) == 1


@pytest.mark.parametrize("off", [{"enable_progress_bar": False}, {"barebones": True}])
def test_no_bar_where_none_is_wanted(off: dict[str, Any]) -> None:
    assert not bars(off)
    pl.Trainer(**brisk("pytorch_lightning", {"accelerator": "cpu", "logger": False, **off}))


def test_the_bar_is_drawn_now_and_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(
        RichProgressBar, "on_train_batch_end", lambda self, *given: drawn.append(given[-1])
    )
    clock = iter(range(10_000))
    monkeypatch.setattr("ltpl.rounds.pace.time.monotonic", lambda: next(clock) * 0.03)
    from pytorch_lightning.demos.boring_classes import BoringModel

    options = {"max_epochs": 1, "limit_train_batches": 20, "limit_val_batches": 0}
    quiet = {"logger": False, "enable_model_summary": False, "enable_checkpointing": False}
    where = {"accelerator": "cpu", "default_root_dir": tmp_path}
    pl.Trainer(**brisk("pytorch_lightning", {**options, **quiet, **where})).fit(BoringModel())
    assert drawn[-1] == 19
    assert 3 <= len(drawn) < 10
