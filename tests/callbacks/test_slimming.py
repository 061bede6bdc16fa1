"""`NetworkSlimming`: when and what it prunes, what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from slim import fit, network, norms
from tiny import Tiny, loader, trainer
from torch import nn

from ltpl.callbacks import Cubic, NetworkSlimming, Trajectory


class Channels(pl.Callback):
    """How many channels each epoch trains with."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.is_last_batch:
            found = norms(pl_module.net).values()
            silent = [(n.weight == 0) & (n.bias == 0) for n in found]
            self.seen.append(sum(int((~s).sum()) for s in silent))


def test_the_smallest_factors_of_that_moment_go(tmp_path: Path) -> None:
    class Before(pl.Callback):
        def on_before_prune(self, trainer: Any, pl_module: Any) -> None:
            self.sizes = torch.cat([n.weight.detach().abs() for n in norms(pl_module).values()])

    before, counts = Before(), Channels()
    slimming = NetworkSlimming(amount=0.5, epoch=3)
    fit(tmp_path, slimming, before, counts)
    assert counts.seen == [28, 28, 28, 14, 14]
    keep = torch.cat([slimming.mask[f"net.{i}.weight"] for i in (1, 4)])
    assert before.sizes[keep].min() >= before.sizes[~keep].max()
    assert list(slimming.mask) == [f"net.{i}.{leaf}" for i in (1, 4) for leaf in ("weight", "bias")]


def test_without_an_epoch_it_prunes_when_training_ends(tmp_path: Path) -> None:
    counts = Channels()
    module = fit(tmp_path, NetworkSlimming(amount=0.25), counts, max_epochs=2)
    assert counts.seen == [28, 28]
    assert sum(int((n.weight != 0).sum()) for n in norms(module).values()) == 21


def test_without_an_amount_it_never_prunes(tmp_path: Path) -> None:
    slimming = NetworkSlimming(amount=None)
    fit(tmp_path, slimming, max_epochs=1)
    assert slimming.mask is None


def test_several_prunings_and_schedules(tmp_path: Path) -> None:
    counts = Channels()
    slimming = NetworkSlimming(epoch=[1, 3], amount=0.5, of="remaining")
    fit(tmp_path, slimming, counts)
    assert counts.seen == [28, 14, 14, 7, 7]
    counts = Channels()
    fit(tmp_path, NetworkSlimming(epoch=Cubic(first=0, last=2), amount=0.75), counts)
    assert counts.seen == [28, round(28 * (1 - 0.75 * 0.875)), 7, 7, 7]


def test_a_layer_of_small_factors_is_not_emptied(tmp_path: Path) -> None:
    module = Tiny(network())
    module.net[1].weight.data *= 1e-4
    slimming = NetworkSlimming(amount=0.75, epoch=0, min_keep=3)
    with pytest.warns(UserWarning, match="min_keep=3 holds"):
        fit(tmp_path, slimming, module=module, max_epochs=1)
    assert [row.kept for row in slimming.table(module)] == [3, 4]


def test_constant_factors_are_pruned_by_position_with_a_warning(tmp_path: Path) -> None:
    module = Tiny(network())
    for norm in norms(module.net).values():
        nn.init.constant_(norm.weight, 0.5)
    with pytest.warns(UserWarning, match="All 28 channels have the same score 0.5"):
        fit(tmp_path, NetworkSlimming(amount=0.25, epoch=0), module=module, max_epochs=1)


def test_what_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slimming = NetworkSlimming(l1=0.5, step="proximal", amount=0.5, epoch=1, penalty_after=True)
    module = Tiny(network())
    run = trainer(tmp_path, [slimming, Trajectory()], max_epochs=2)
    with caplog.at_level("INFO"):
        run.fit(module, loader())
    sizes = torch.cat([n.weight.detach().abs() for n in norms(module).values()])
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    assert logged["slim/l1"] == pytest.approx(float(sizes.sum()), rel=1e-5)
    assert logged["slim/zero"] == int((sizes == 0).sum()) >= 14
    assert logged["slim/small"] == pytest.approx(float((sizes < 0.01).float().mean()))
    assert logged["ticket/channels"] == 14
    assert logged["ticket/density"] == 0.5
    rows = slimming.table(module)
    assert "14 of 28 channels stay" in caplog.text
    assert f"net.1: {rows[0].kept} of 16 channels" in caplog.text
    assert "NetworkSlimming: after 1 epochs" in caplog.text


def test_freezing_norms_in_mid_training_is_fine(tmp_path: Path) -> None:
    class Freezes(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            for norm in norms(pl_module).values():
                norm.weight.requires_grad_(trainer.current_epoch != 0)

    fit(tmp_path, NetworkSlimming(amount=0.5, epoch=2), Freezes(), max_epochs=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l1": -1.0}, r"l1=-1\.0: a strength, 0 <= l1"),
        ({"l1": float("nan")}, "l1=nan: a strength"),
        ({"step": "proximall"}, "step='proximall' is not known; did you mean 'proximal'"),
        ({"amount": 1.0}, r"amount=1\.0: a share to prune, 0 <= amount < 1"),
        ({"amount": [0.1, 0.2]}, "gives 2 amounts|amount"),
        ({"amount": None, "epoch": 3}, "epoch=3 with amount=None: how much"),
        ({"epoch": -1}, r"epochs=\[-1\]: give one or more different epochs"),
        ({"trunk": "outer"}, r"trunk='outer' is not known.*Allowed: all, inner, group"),
        ({"reduction": "sum"}, r"reduction='sum' is not known.*Allowed: max, mean, union"),
        ({"score": "gama"}, "score='gama' is not known; did you mean 'gamma'"),
        ({"kinds": ["batch", "grup"]}, "kinds='grup' is not known; did you mean 'group'"),
        ({"of": "some"}, "of='some' is not known"),
        ({"min_keep": -1}, "min_keep=-1: at least 0"),
    ],
)
def test_a_wrong_option_is_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        NetworkSlimming(**{"epoch": 3, **options})
    assert "\n" not in str(error.value)


def test_a_network_without_norms_is_refused_when_training_starts(tmp_path: Path) -> None:
    module = Tiny(nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"factor of kind batch is left in Tiny.*it has none"):
        fit(tmp_path, NetworkSlimming(), module=module)
