"""The dense round of a run may train a supermask, and is judged by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import Data, Small, Watch, find

from ltpl.callbacks import Supermask
from ltpl.masks import Mask
from ltpl.tickets import Snapshot


def test_the_dense_round_is_judged_by_the_supermask(tmp_path: Path) -> None:
    watch = Watch()
    run = find(tmp_path / "run", watch, levels=0, callbacks=[Supermask(lr=5.0)])
    (result,) = run.results
    folder = tmp_path / "run" / "seed_0" / "round_00"
    assert Mask.load(folder / "mask.safetensors").density == 1
    assert result.kept == result.total
    assert "supermask.safetensors" in result.files
    mask = Mask.load(folder / "supermask.safetensors")
    start = Snapshot.load(folder / "snapshot.safetensors").weights
    end = Snapshot.load(folder / "final.safetensors").weights
    module = Small()
    for name, keep in mask.items():
        assert start[name].count_nonzero() == start[name].numel()
        assert torch.equal(end[name], start[name] * keep)
        assert 0 < keep.float().mean() < 1
    ((_, tested),) = watch._tests
    module.load_state_dict(tested)
    assert all(torch.equal(tested[name], end[name]) for name in mask)
    batches = list(Data().test_dataloader())
    with torch.no_grad():
        outputs = [module.eval().net(x).argmax(1) == y for x, y, _ in batches]
    assert result.test_acc == pytest.approx(float(torch.cat(outputs).float().mean()))
    with pytest.raises(ValueError, match="levels=0"):
        find(tmp_path / "run", watch, levels=1, callbacks=[Supermask(lr=5.0)])
