from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from tiny import BATCHES, Tiny, Validated, loader, trainer
from torch import Tensor, nn

from ltpl.callbacks import PruneAtEpoch, RewindToEpoch
from ltpl.tickets import Snapshot

MOMENTUM = partial(torch.optim.SGD, momentum=0.9)
STEPS = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[2, 3], gamma=0.1)


class Diary(pl.Callback):
    """An independent copy of everything, at the start of each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.slots: list[list[Tensor]] = []
        self.lr: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.weights.append({n: t.detach().clone() for n, t in pl_module.state_dict().items()})
        optimizer = trainer.optimizers[0]
        buffers = [s.get("momentum_buffer") for s in optimizer.state.values()]
        self.slots.append([b.clone() for b in buffers if b is not None])
        self.lr.append(optimizer.param_groups[0]["lr"])


def run(
    tmp_path: Any, rewinder: RewindToEpoch, prune_at: int = 3, **options: Any
) -> tuple[Diary, PruneAtEpoch]:
    diary, pruner = Diary(), PruneAtEpoch(prune_at, 0.5)
    module = options.pop("module", None) or Tiny(optimizer=MOMENTUM, schedule=STEPS)
    callbacks = [pruner, rewinder, diary]
    if options.pop("rewinder_first", False):
        callbacks = [rewinder, pruner, diary]
    trainer(tmp_path, callbacks, **options).fit(module, loader())
    return diary, pruner


def same_where_kept(after: dict[str, Tensor], before: dict[str, Tensor], pruner: Any) -> bool:
    for name, value in after.items():
        keep = pruner.mask[name] if name in pruner.mask else torch.ones_like(value).bool()
        if not torch.equal(value[keep], before[name][keep]) or value[~keep].count_nonzero():
            return False
    return True


@pytest.mark.parametrize("rewinder_first", [True, False])
@pytest.mark.parametrize(
    ("moment", "step"),
    [
        ({"epoch": 0}, 0),
        ({"epoch": 2}, 2 * BATCHES),
        ({"at": "4it"}, 4),
        ({"at": "1ep2it"}, BATCHES + 2),
        ({"at": "2ep"}, 2 * BATCHES),
    ],
)
def test_rewind_goes_back_to_that_very_step(
    moment: dict[str, Any], step: int, rewinder_first: bool, tmp_path: Any
) -> None:
    diary, pruner = run(tmp_path, RewindToEpoch(**moment), rewinder_first=rewinder_first)
    assert same_where_kept(diary.weights[3 * BATCHES], diary.weights[step], pruner)


@pytest.mark.parametrize("rewinder_first", [True, False])
def test_a_snapshot_at_the_moment_of_pruning_is_taken_first(
    rewinder_first: bool, tmp_path: Any
) -> None:
    rewinder = RewindToEpoch(3, dirpath=str(tmp_path))
    _, pruner = run(tmp_path, rewinder, rewinder_first=rewinder_first)
    snapshot = Snapshot.load(rewinder.snapshot_path)
    assert all(
        snapshot.weights[name].count_nonzero() > keep.sum() for name, keep in pruner.mask.items()
    )


def test_every_pruning_goes_back_to_the_same_snapshot(tmp_path: Any) -> None:
    """A snapshot that aliases live tensors is right once and wrong ever after."""
    diary, pruner = Diary(), PruneAtEpoch([1, 2, 3], 0.3)
    trainer(tmp_path, [RewindToEpoch(at="3it"), pruner, diary]).fit(Tiny(), loader())
    for epoch in (1, 2):
        back = diary.weights[epoch * BATCHES]
        weight = back["net.0.weight"]
        kept = weight != 0
        assert torch.equal(weight[kept], diary.weights[3]["net.0.weight"][kept])
        assert torch.equal(back["net.1.running_mean"], diary.weights[3]["net.1.running_mean"])
    assert same_where_kept(diary.weights[3 * BATCHES], diary.weights[3], pruner)


def test_buffers_and_unpruned_parameters_go_back_too(tmp_path: Any) -> None:
    diary, _ = run(tmp_path, RewindToEpoch(1))
    after, before = diary.weights[3 * BATCHES], diary.weights[BATCHES]
    for name in ("net.1.running_var", "net.1.num_batches_tracked", "net.1.weight", "net.4.bias"):
        assert torch.equal(after[name], before[name])
        assert not torch.equal(after[name], diary.weights[3 * BATCHES - 1][name])


def test_fresh_optimisers_lose_their_momentum_and_restored_ones_get_it_back(tmp_path: Any) -> None:
    fresh, _ = run(tmp_path, RewindToEpoch(1))
    assert not fresh.slots[3 * BATCHES]
    restored, pruner = run(tmp_path, RewindToEpoch(1, optimizer="restored"))
    masks = iter(pruner.mask.values())
    for now, then in zip(restored.slots[3 * BATCHES], restored.slots[BATCHES], strict=True):
        keep = next(masks) if now.dim() > 1 else torch.ones_like(now).bool()
        assert torch.equal(now, then * keep)


def test_the_schedule_restarts_and_does_not_leak_over_cycles(tmp_path: Any) -> None:
    diary, _ = run(tmp_path, RewindToEpoch(0), max_epochs=7)
    by_epoch = [round(lr, 6) for lr in diary.lr[::BATCHES]]
    assert by_epoch == [0.1, 0.1, 0.01, 0.1, 0.1, 0.01, 0.001]


def test_lr_rewind_takes_the_schedule_back_and_leaves_the_weights(tmp_path: Any) -> None:
    diary, pruner = run(tmp_path, RewindToEpoch(0, policy="lr_rewind"), max_epochs=7)
    continued, _ = run(tmp_path, RewindToEpoch(0, policy="continue"), max_epochs=7)
    assert [round(lr, 6) for lr in diary.lr[::BATCHES]] == [0.1, 0.1, 0.01, 0.1, 0.1, 0.01, 0.001]
    assert not same_where_kept(diary.weights[3 * BATCHES], diary.weights[0], pruner)
    assert diary.weights[0].keys() == continued.weights[0].keys()


def test_finetune_keeps_weights_and_the_last_learning_rate(tmp_path: Any) -> None:
    diary, _ = run(tmp_path, RewindToEpoch(0, policy="finetune"), prune_at=2, max_epochs=5)
    assert [round(lr, 6) for lr in diary.lr[::BATCHES]] == [0.1, 0.1, 0.01, 0.01, 0.01]
    assert diary.slots[2 * BATCHES]


def test_finetune_works_beside_the_learning_rate_monitor(tmp_path: Any) -> None:
    logger = pl.loggers.CSVLogger(tmp_path)
    monitor = pl.callbacks.LearningRateMonitor()
    pruner, rewinder = PruneAtEpoch(2, 0.5), RewindToEpoch(policy="finetune")
    module = Tiny(optimizer=MOMENTUM, schedule=STEPS)
    callbacks = [pruner, rewinder, monitor]
    trainer(tmp_path, callbacks, logger=logger, log_every_n_steps=1).fit(module, loader())
    assert monitor.lrs["lr-SGD"][-1] == pytest.approx(0.01)


def test_continue_changes_nothing(tmp_path: Any) -> None:
    with_it, _ = run(tmp_path, RewindToEpoch(0, policy="continue"))
    diary, pruner = Diary(), PruneAtEpoch(3, 0.5)
    torch.manual_seed(0)
    assert with_it.lr == [with_it.lr[0]] * 2 * BATCHES + with_it.lr[2 * BATCHES :]
    module = Tiny(optimizer=MOMENTUM, schedule=STEPS)
    module.load_state_dict(with_it.weights[0])
    trainer(tmp_path, [pruner, diary]).fit(module, loader())
    for name, value in diary.weights[-1].items():
        assert torch.equal(value, with_it.weights[-1][name])


def test_reinit_draws_new_weights_under_the_same_mask_and_restarts(tmp_path: Any) -> None:
    torch.manual_seed(1)
    module = Tiny(optimizer=MOMENTUM, schedule=STEPS)
    diary, pruner = run(tmp_path, RewindToEpoch(policy="reinit"), module=module)
    now, first = diary.weights[3 * BATCHES], diary.weights[0]
    for name, keep in pruner.mask.items():
        assert not now[name][~keep].count_nonzero()
        assert not torch.isclose(now[name][keep], first[name][keep]).any()
        assert now[name][keep].std() == pytest.approx(float(first[name].std()), rel=0.5)
    assert torch.equal(now["net.1.running_mean"], torch.zeros(16))
    assert diary.lr[3 * BATCHES] == pytest.approx(0.1)


def test_reinit_differs_from_cycle_to_cycle(tmp_path: Any) -> None:
    diary, pruner = Diary(), PruneAtEpoch([1, 2], 0.3)
    trainer(tmp_path, [RewindToEpoch(policy="reinit"), pruner, diary]).fit(Tiny(), loader())
    keep = pruner.mask["net.0.weight"]
    first, second = (diary.weights[e * BATCHES]["net.0.weight"][keep] for e in (1, 2))
    assert not torch.isclose(first, second).any()


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def test_reinit_names_the_parameter_that_cannot_be_redrawn(tmp_path: Any) -> None:
    module = Tiny(Raw())
    with pytest.raises(ValueError, match=r"'net\.weight' has reset_parameters\(\)"):
        run(tmp_path, RewindToEpoch(policy="reinit"), module=module)


def test_reinit_warns_of_an_initialisation_it_cannot_know(tmp_path: Any) -> None:
    net = nn.Sequential(nn.Linear(8, 200), nn.Tanh(), nn.Linear(200, 3))
    nn.init.normal_(net[0].weight, std=0.01)
    with pytest.warns(UserWarning, match=r"net\.0\.weight.*initialises itself elsewhere"):
        run(tmp_path, RewindToEpoch(policy="reinit"), module=Tiny(net))


def test_sign_constant_keeps_the_sign_and_the_scale(tmp_path: Any) -> None:
    diary, pruner = run(tmp_path, RewindToEpoch(0, mask_1="sign_constant"))
    now, first = diary.weights[3 * BATCHES], diary.weights[0]
    for name, keep in pruner.mask.items():
        expected = first[name].sign() * first[name].std(correction=0)
        torch.testing.assert_close(now[name], expected * keep)


def test_reshuffle_permutes_the_kept_values_of_each_layer(tmp_path: Any) -> None:
    diary, pruner = run(tmp_path, RewindToEpoch(0, mask_1="reshuffle"))
    now, first = diary.weights[3 * BATCHES], diary.weights[0]
    for name, keep in pruner.mask.items():
        assert torch.equal(now[name][keep].sort().values, first[name][keep].sort().values)
        assert not torch.equal(now[name][keep], first[name][keep])


def test_frozen_weights_stay_at_the_value_of_the_snapshot(tmp_path: Any) -> None:
    diary, pruner = run(tmp_path, RewindToEpoch(0, mask_0="freeze"))
    first = diary.weights[0]
    for now in diary.weights[3 * BATCHES :]:
        for name, keep in pruner.mask.items():
            assert torch.equal(now[name][~keep], first[name][~keep])
    name, keep = "net.0.weight", pruner.mask["net.0.weight"]
    assert not torch.equal(diary.weights[-1][name][keep], first[name][keep])


def test_the_snapshot_is_a_whole_file_without_pickles(tmp_path: Any) -> None:
    rewinder = RewindToEpoch(1, dirpath=str(tmp_path / "mine"))
    diary, _ = run(tmp_path, rewinder)
    (path,) = (tmp_path / "mine").iterdir()
    assert str(path) == rewinder.snapshot_path
    snapshot = Snapshot.load(path)
    assert snapshot.step == "1ep"
    assert torch.equal(snapshot.weights["net.0.weight"], diary.weights[BATCHES]["net.0.weight"])
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["tree"])


def test_averages_restart_after_a_rewind(tmp_path: Any) -> None:
    class Average(pl.callbacks.EMAWeightAveraging):
        seen: Tensor | None = None

        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 3 * BATCHES:
                self.seen = self._average_model.module.net[0].weight.detach().clone()

    average = Average(decay=0.9)
    diary, pruner = Diary(), PruneAtEpoch(3, 0.5)
    callbacks = [average, RewindToEpoch(0), pruner, diary]
    trainer(tmp_path, callbacks).fit(Tiny(), loader())
    assert torch.equal(average.seen, diary.weights[3 * BATCHES]["net.0.weight"])


def test_what_went_back_is_recorded(tmp_path: Any) -> None:
    rewinder = RewindToEpoch(1)
    run(tmp_path, rewinder)
    (entry,) = rewinder.history
    for word in ("after 3 epochs", "rewind", "weights", "buffers", "schedules", "fresh", "0.1"):
        assert word in entry


def test_pruning_before_the_snapshot_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="goes back to 2ep, but a pruning comes before it"):
        run(tmp_path, RewindToEpoch(2), prune_at=1)


def deep(convolutions: int) -> nn.Sequential:
    blocks = [nn.Conv2d(1, 1, 1, bias=False) for _ in range(convolutions)]
    return nn.Sequential(nn.Unflatten(1, (1, 2, 4)), *blocks, nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.filterwarnings("ignore:PruneAtEpoch. no gradient")
def test_rewinding_a_deep_network_to_initialisation_at_a_high_rate_warns_once(
    tmp_path: Any,
) -> None:
    def tried(convolutions: int, lr: float, schedule: Callable[..., Any] | None = None) -> int:
        module = Tiny(deep(convolutions), lr=lr, schedule=schedule)
        with pytest.MonkeyPatch.context() as patch:
            said: list[str] = []
            patch.setattr("ltpl.callbacks.rewinding.rank_zero_warn", said.append)
            callbacks = [PruneAtEpoch([1, 2], 0.1, include=["net.9.*", "net.7.*"][0])]
            callbacks = [PruneAtEpoch([1, 2], 0.1, exclude="conv"), RewindToEpoch(0)]
            trainer(tmp_path, callbacks).fit(module, loader())
        return sum("data order" in line for line in said)

    warm_up = partial(torch.optim.lr_scheduler.LinearLR, start_factor=0.1, total_iters=2)
    assert tried(8, lr=0.1) == 1
    assert tried(6, lr=0.1) == 0
    assert tried(8, lr=0.01) == 0
    assert tried(8, lr=0.1, schedule=warm_up) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "rewnd"}, "did you mean 'rewind'"),
        ({"optimizer": "old"}, "Allowed: fresh, restored"),
        ({"mask_1": "signs"}, "mask_1='signs' is not known"),
        ({"mask_0": "freez"}, "did you mean 'freeze'"),
        ({"at": "5 epochs"}, "write 10ep, 500it or 2ep50it"),
        ({"epoch": 2, "at": "5it"}, "not both"),
        ({"epoch": -1}, "epoch >= 0"),
        ({"policy": "finetune", "mask_0": "freeze"}, "belong to policy='rewind'"),
        ({"policy": "finetune", "optimizer": "restored"}, "only 'rewind' and 'lr_rewind'"),
    ],
)
def test_wrong_options_say_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewindToEpoch(**options)


def test_validation_before_the_rewind_shows_the_network_as_trained(tmp_path: Any) -> None:
    module = Validated(lr=0.5)
    losses: list[float] = []

    class Losses(pl.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            losses.append(float(trainer.callback_metrics["val_loss"]))

    callbacks = [PruneAtEpoch(3, 0.5), RewindToEpoch(0), Losses()]
    options = {"num_sanity_val_steps": 0}
    trainer(tmp_path, callbacks, **options).fit(module, loader(), loader())
    assert losses[2] < losses[1] < losses[0]
