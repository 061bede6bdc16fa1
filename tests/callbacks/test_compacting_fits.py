"""`CompactAfterPruning`: what it does to a fit, says, saves and refuses."""

from __future__ import annotations

import copy
import logging
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lp
import pytest
import torch
from foreign_criterion import last_survive
from shrink import (
    BATCHES,
    EPOCHS,
    Losses,
    Watched,
    apart,
    both,
    convolutional,
    fit,
    loader,
    size,
)
from tiny import Checkpointed, trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ltpl
from ltpl.callbacks import (
    CompactAfterPruning,
    EarlyBird,
    NetworkSlimming,
    PruneAtEpoch,
    RewindToEpoch,
)

EQUAL = 1e-8
ADAM = partial(torch.optim.Adam)
MOMENTUM = partial(torch.optim.SGD, momentum=0.9, weight_decay=0.01)
STEPS = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.3)
CUT = pytest.mark.filterwarnings("ignore:.*no gradient reaches")
HOLDS = pytest.mark.filterwarnings("ignore:min_keep=.* holds channels back")


def slim(**options: Any) -> list[Any]:
    return [NetworkSlimming(**{"epoch": 1, "amount": 0.5, "l1": 0.01, **options})]


def test_sizes_change_at_the_pruning_and_not_elsewhere(tmp_path: Path) -> None:
    seen = Losses()
    fit(tmp_path, [*slim(epoch=2), CompactAfterPruning(), seen])
    assert len(set(seen.sizes[: 2 * BATCHES])) == len(set(seen.sizes[2 * BATCHES :])) == 1
    assert seen.sizes[-1] < seen.sizes[0]


def test_it_may_come_before_the_callback_that_prunes(tmp_path: Path) -> None:
    module = Watched(convolutional(), MOMENTUM)
    masked = fit(tmp_path / "a", slim(), copy.deepcopy(module))
    small = fit(tmp_path / "b", [CompactAfterPruning(), *slim()], module)
    assert apart(masked, small) < EQUAL
    assert size(small) < size(masked)


def test_the_optimizer_trains_the_small_parameters(tmp_path: Path) -> None:
    seen: list[tuple[list[Any], list[Any]]] = []

    class Looks(CompactAfterPruning):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            (optimizer,) = trainer.optimizers
            stepped = [p for group in optimizer.param_groups for p in group["params"]]
            seen.append(([id(p) for p in pl_module.parameters()], [id(p) for p in stepped]))
            for parameter in stepped:
                assert optimizer.state[parameter]["momentum_buffer"].shape == parameter.shape

    fit(tmp_path, [*slim(), Looks()], Watched(convolutional(), MOMENTUM))
    assert all(own == stepped for own, stepped in seen)
    assert len({str(own) for own, _ in seen}) == 1


def test_whole_neurons_of_an_unstructured_ticket_go(tmp_path: Path) -> None:
    """Weights pruned one by one; a neuron without incoming weights says its bias."""
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(32, 12, bias=False),
        nn.ReLU(),
        nn.Linear(12, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 3),
    )
    with torch.no_grad():
        net[1].weight[:5] *= 1e-4
        net[3].weight[:, 6:8] *= 1e-4
    masked, small = both(
        tmp_path,
        lambda: [PruneAtEpoch(1, 0.5, exclude="*.5.*")],
        Watched(net, lr=0.01),
    )
    assert apart(masked, small) < EQUAL
    assert small.net[1].out_features <= 7


def test_a_new_bias_is_trained(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(32, 12, bias=False), nn.Sigmoid(), nn.Linear(12, 3, bias=False)
    )
    pruner = PruneAtEpoch(1, 0.5, include="net.1.weight", criterion=last_survive)
    module = fit(tmp_path, [pruner, CompactAfterPruning()], Watched(net, MOMENTUM))
    (optimizer,) = module.runner.optimizers
    assert module.net[3].bias.shape == (3,)
    assert [id(p) for p in module.parameters()] == [
        id(p) for group in optimizer.param_groups for p in group["params"]
    ]
    assert optimizer.state[module.net[3].bias]["momentum_buffer"].count_nonzero() == 3


@pytest.mark.filterwarnings("ignore:early_bird")
def test_early_bird_prunes_and_the_network_gets_small(tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        return [EarlyBird(0.5, eps=0.4, window=1, action="prune")]

    masked, small = both(tmp_path, callbacks, Watched(convolutional(), MOMENTUM))
    assert apart(masked, small) < EQUAL
    assert size(small) < size(masked)


def test_what_it_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        module = fit(tmp_path, [*slim(), CompactAfterPruning()])
    before, after = size(convolutional()), size(module)
    expected = f"after 1 epochs {before:,} -> {after:,} parameters ({after / before:.1%})"
    assert expected in caplog.text


def test_a_dry_run_leaves_no_files(tmp_path: Path) -> None:
    callbacks = [*slim(epoch=None), RewindToEpoch(0), CompactAfterPruning()]
    module = fit(tmp_path, callbacks, fast_dev_run=True, logger=False)
    assert size(module) < size(convolutional())
    assert not list(tmp_path.rglob("*"))


def test_a_second_fit_of_the_small_module_goes_on(tmp_path: Path) -> None:
    compacting = CompactAfterPruning()
    module = fit(tmp_path / "1", [*slim(), compacting])
    small = size(module)
    fit(tmp_path / "2", [compacting], module)
    assert size(module) == small
    assert size(ltpl.load(tmp_path / "2", convolutional())) == small
    other = fit(tmp_path / "3", [compacting])
    assert size(other) == size(convolutional())
    assert not (tmp_path / "3" / "compact.safetensors").exists()


def test_nothing_stays_on_the_module_and_it_can_be_pickled(tmp_path: Path) -> None:
    compacting = CompactAfterPruning()
    module = fit(tmp_path, [*slim(), compacting])
    assert not {"on_load_checkpoint", "on_save_checkpoint"} & vars(module).keys()
    assert pickle.loads(pickle.dumps(compacting)).spec == compacting.spec


def test_the_other_namespace(tmp_path: Path) -> None:
    class Module(lp.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = convolutional()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    module = Module()
    runner = lp.Trainer(
        max_epochs=2,
        callbacks=[*slim(), CompactAfterPruning()],
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    runner.fit(module, loader())
    assert size(module) < size(convolutional())
    assert size(ltpl.load(tmp_path, convolutional())) == size(module)


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.gain = convolutional(), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).cumsum(1) * self.gain


def test_what_cannot_be_followed_is_refused_before_training(tmp_path: Path) -> None:
    module = Watched(Unknown())
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match="does not know the operation cumsum"):
        fit(tmp_path, [*slim(), CompactAfterPruning()], module)
    assert not module.steps
    assert all(torch.equal(v, before[n].double()) for n, v in module.state_dict().items())


def test_pruned_weights_that_keep_their_values_are_refused(tmp_path: Path) -> None:
    callbacks = [*slim(), RewindToEpoch(0, mask_0="freeze"), CompactAfterPruning()]
    with pytest.raises(ValueError, match="mask_0='freeze': pruned weights that keep"):
        fit(tmp_path, callbacks)


def test_an_average_of_a_part_is_refused(tmp_path: Path) -> None:
    class Partly(Watched):
        def on_fit_start(self) -> None:
            self.average = torch.optim.swa_utils.AveragedModel(self.net[0])

    with pytest.raises(ValueError, match=r"an average of net\.0 alone, which cannot follow"):
        fit(tmp_path, [*slim(), CompactAfterPruning()], Partly(convolutional()))


@pytest.mark.parametrize("options", [{"round_to": 0}, {"batches": 0}])
def test_a_wrong_option_is_one_clear_error(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="both at least 1"):
        CompactAfterPruning(**options)


def test_gradient_checkpointing(tmp_path: Path) -> None:
    class Part(Checkpointed):
        def __init__(self) -> None:
            super().__init__()
            self.body = convolutional()

    masked, small = both(tmp_path, slim, Watched(Part(), MOMENTUM), max_epochs=2)
    assert apart(masked, small) < EQUAL
    assert size(small) < size(masked)


def test_epochs_are_counted(tmp_path: Path) -> None:
    module = fit(tmp_path, [*slim(), CompactAfterPruning()])
    assert len(module.steps) == EPOCHS * BATCHES
    assert trainer(tmp_path, []).max_epochs
