"""Masks over untrained weights in rounds: trained in the dense one, found by pruning in others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import Data, Small, Watch, find
from torch.utils.data import DataLoader

from ltpl.callbacks import Supermask
from ltpl.masks import Mask
from ltpl.tickets import Snapshot
from ltpl.tickets.start import sign_constant


def accuracy(module: Small, loader: DataLoader) -> float:
    with torch.no_grad():
        right = [module.eval().net(x).argmax(1) == y for x, y, _ in loader]
    return float(torch.cat(right).float().mean())


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
    assert result.test_acc == pytest.approx(accuracy(module, Data().test_dataloader()))


def test_a_round_that_would_prune_untrained_weights_is_refused_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=r"levels=1 with Supermask: .* Give levels=0"):
        find(tmp_path / "run", levels=1, callbacks=[Supermask(lr=5.0)])
    assert not (tmp_path / "run").exists()


def test_a_round_starts_by_judging_its_mask_over_untrained_weights(tmp_path: Path) -> None:
    run = find(
        tmp_path / "run",
        prune={"amount": 0.3, "criterion": "large_final_same_sign"},
        rewind={"mask_1": "sign_constant"},
    )
    folders = [tmp_path / "run" / "seed_0" / f"round_0{level}" for level in (0, 1)]
    first, last = (
        Snapshot.load(folders[0] / name).weights
        for name in ("snapshot.safetensors", "final.safetensors")
    )
    module, mask = Small(), Mask.load(folders[1] / "mask.safetensors")
    module.load_state_dict(first, strict=False)
    for name, keep in mask.items():
        assert torch.equal(first[name][keep].sign(), last[name][keep].sign())
        module.get_parameter(name).data = sign_constant(first[name]) * keep
    assert run.results[1].start_acc == pytest.approx(accuracy(module, Data().val_dataloader()))
