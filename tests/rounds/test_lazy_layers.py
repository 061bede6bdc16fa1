"""Lazily sized layers, of torch and of PyG, through rounds."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning as pl
import torch
from small import CLASSES, FEATURES, Data, Small, Watch, find, same
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ltpl.data.graphs import StochasticBlockModel
from ltpl.rounds.branch import Branch
from ltpl.rounds.branches import run_branch
from ltpl.rounds.find import InPython
from ltpl.tickets.snapshot import Snapshot

pytestmark = pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")


class Unsized(Small):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():  # older torch says that lazy modules are new
            warnings.simplefilter("ignore")
            self.net[0], self.net[1] = nn.LazyLinear(10), nn.LazyBatchNorm1d()
            self.net[4] = nn.LazyLinear(CLASSES)


def test_a_lazy_run_is_that_of_a_network_with_its_sizes_written_out(tmp_path: Path) -> None:
    watch, other = Watch(), Watch()
    run = find(tmp_path / "lazy", watch, make_model=Unsized, levels=2)
    initial = watch.of("seed_0/round_00").weights

    class Sized(Small):
        def __init__(self) -> None:
            super().__init__()
            self.load_state_dict(initial)

    written = find(tmp_path / "sized", other, make_model=Sized, levels=2)
    assert initial["net.0.weight"].shape == (10, FEATURES)
    for level in range(3):
        name = f"seed_0/round_0{level}"
        assert watch.of(name).numbers == other.of(name).numbers
        assert run.mask(level) == written.mask(level)
        for file in ("snapshot", "final"):
            mine, theirs = (
                Snapshot.load(r.tree.round(0, level) / f"{file}.safetensors")
                for r in (run, written)
            )
            assert same(mine.weights | mine.buffers, theirs.weights | theirs.buffers)
        assert run.results[level].test == written.results[level].test
    mask, start = run.mask(1), run.ticket(1).start
    for name, keep in mask.items():
        assert torch.equal(start.weights[name], initial[name] * keep)


def test_seeds_give_lazy_layers_other_weights_and_a_branch_draws_them_anew(tmp_path: Path) -> None:
    watch = Watch()
    run = find(tmp_path, watch, make_model=Unsized, seeds=[0, 1])
    first, second = (watch.of(f"seed_{seed}/round_00").weights for seed in (0, 1))
    assert not torch.equal(first["net.0.weight"], second["net.0.weight"])
    trainer = {"max_epochs": 3, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1}
    experiment = InPython(Unsized, Data, *parts(), {**trainer, "callbacks": [watch]})
    run_branch(experiment, Branch(name="reinit", seeds="0", report=False, quiet=True), tmp_path)
    anew = watch.of("seed_0/round_01").weights["net.0.weight"]
    keep = run.mask(1)["net.0.weight"]
    assert not anew[~keep].count_nonzero()
    assert not torch.equal(anew, first["net.0.weight"] * keep)


def parts() -> tuple[Any, Any]:
    from ltpl.callbacks import PruneAtEpoch, RewindToEpoch

    return PruneAtEpoch(amount=0.5), RewindToEpoch()


class ByHand(Unsized):
    automatic_optimization = False


def test_lazy_layers_under_manual_optimization_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ByHand has lazy layers and manual optimization"):
        find(tmp_path, make_model=ByHand)


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        nn_pyg = pytest.importorskip("torch_geometric.nn")
        self.first, self.second = nn_pyg.GCNConv(-1, 8), nn_pyg.GCNConv(-1, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = nn.functional.dropout(self.first(x, edge_index).relu(), training=self.training)
        return self.second(x, edge_index)


class Foreign:
    def __init__(self) -> None:
        super().__init__()
        self.net = Convolutional()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.net(batch.x, batch.edge_index)[batch.train_mask]
        loss = cross_entropy(logits, batch.y[batch.train_mask])
        self.log("loss", loss, batch_size=len(logits))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class OfOne(Foreign, pl.LightningModule):
    def train_dataloader(self) -> Any:
        data = StochasticBlockModel(nodes=10)
        data.setup("fit")
        return data.train_dataloader()


class OfOther(Foreign, lightning.pytorch.LightningModule):
    train_dataloader = OfOne.train_dataloader


@pytest.mark.parametrize("make", [OfOne, OfOther])
def test_lazy_layers_of_pyg_are_sized_before_the_ticket(make: Any, tmp_path: Path) -> None:
    run = find(tmp_path, None, make_model=make, make_data=None, levels=2)
    dense = Snapshot.load(run.tree.round(0, 0) / "snapshot.safetensors")
    assert dense.weights["net.first.lin.weight"].shape == (8, 16)
    assert dense.weights["net.first.lin.weight"].std() > 0
    for level in (1, 2):
        for name, keep in run.mask(level).items():
            assert torch.equal(run.ticket(level).start.weights[name], dense.weights[name] * keep)
    assert [result.inputs for result in run.results] == [16, 16, 16]
