from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy
from tiny import (
    AMOUNT,
    BATCHES,
    PRUNE_AT,
    Tiny,
    TwoOptimizers,
    Validated,
    ZeroAfterEachStep,
    loader,
    network,
    trainer,
)
from torch import nn

from ltpl.callbacks import AtEpochs, Cubic, Every, PerRound, PruneAtEpoch


class Densities(pl.Callback):
    """Density that each epoch trains with."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        if trainer.is_last_batch:
            weights = [p for p in pl_module.net.parameters() if p.dim() > 1]
            kept = sum(int(w.count_nonzero()) for w in weights)
            self.seen.append(kept / sum(w.numel() for w in weights))


def fit(tmp_path: Any, pruner: PruneAtEpoch, *others: Any, **options: Any) -> list[float]:
    densities = Densities()
    module = options.pop("module", None) or Tiny()
    trainer(tmp_path, [pruner, densities, *others], **options).fit(module, loader())
    return [round(d, 2) for d in densities.seen]


def test_epoch_k_is_the_start_of_epoch_k(tmp_path: Any) -> None:
    assert fit(tmp_path, PruneAtEpoch([2, 4], 0.5)) == [1, 1, 0.5, 0.5, 0.25]


def test_epoch_zero_prunes_before_the_first_batch(tmp_path: Any) -> None:
    assert fit(tmp_path, PruneAtEpoch(0, 0.5), max_epochs=2) == [0.5, 0.5]


def test_the_length_of_training_means_when_training_ends(tmp_path: Any) -> None:
    module = Tiny()
    pruner = PruneAtEpoch(3, 0.5)
    assert fit(tmp_path, pruner, max_epochs=3, module=module) == [1, 1, 1]
    assert pruner.mask.density == 0.5
    kept = sum(int(module.net[i].weight.count_nonzero()) for i in (0, 3, 4))
    assert kept == pruner.mask.kept


def test_amount_of_remaining_compounds_and_amount_of_all_does_not(tmp_path: Any) -> None:
    remaining = PruneAtEpoch(Every(1, first=0), 0.2)
    assert fit(tmp_path, remaining, max_epochs=3) == [0.8, 0.64, 0.51]
    assert fit(tmp_path, PruneAtEpoch([0, 1], 0.2, of="all"), max_epochs=2) == [0.8, 0.8]


def test_a_list_of_amounts_goes_with_the_list_of_epochs(tmp_path: Any) -> None:
    pruner = PruneAtEpoch([1, 2, 3], [0.25, 0.5, 0.75], of="all", scope="layer")
    assert fit(tmp_path, pruner, max_epochs=4) == [1, 0.75, 0.5, 0.25]


def test_cubic_is_gradual_and_ends_at_the_amount(tmp_path: Any) -> None:
    pruner = PruneAtEpoch(Cubic(first=0, last=4), 0.8, of="all")
    expected = [round(1 - 0.8 * (1 - (1 - t / 4) ** 3), 2) for t in range(5)]
    assert fit(tmp_path, pruner) == expected
    assert pruner.mask.kept == pruner.mask.total - round(0.8 * pruner.mask.total)


def test_cubic_of_remaining_starts_from_what_is_left(tmp_path: Any) -> None:
    module, pruner = Tiny(), PruneAtEpoch(Cubic(first=0, last=2), 0.5)
    fit(tmp_path, pruner, max_epochs=3, module=module)
    assert pruner.mask.density == pytest.approx(0.5, abs=0.01)
    assert fit(tmp_path, pruner, max_epochs=3, module=module)[-1] == pytest.approx(0.25, abs=0.01)


def test_per_round_prunes_when_training_ends_whatever_ended_it(tmp_path: Any) -> None:
    pruner = PruneAtEpoch(PerRound(), 0.5)
    assert fit(tmp_path, pruner, max_steps=BATCHES + 2, max_epochs=-1) == [1]
    assert pruner.mask.density == 0.5


def test_several_fits_with_one_model_go_on_from_the_mask(tmp_path: Any) -> None:
    module, pruner = Tiny(), PruneAtEpoch(PerRound(), 0.5, scope="layer")
    for density in (0.5, 0.25, 0.125):
        fit(tmp_path, pruner, max_epochs=1, module=module)
        assert pruner.mask.density == pytest.approx(density, abs=0.01)
    assert fit(tmp_path, pruner, max_epochs=1, module=module) == [round(pruner.mask.density * 2, 2)]


def test_a_new_model_starts_dense_with_a_used_callback(tmp_path: Any) -> None:
    pruner = PruneAtEpoch(1, 0.5)
    assert fit(tmp_path, pruner, max_epochs=2) == fit(tmp_path, pruner, max_epochs=2) == [1, 0.5]


def test_the_model_can_be_deep_copied_and_pickled_after_pruning(tmp_path: Any) -> None:
    module, pruner = Tiny(), PruneAtEpoch(1, 0.5)
    fit(tmp_path, pruner, module=module)
    twin = copy.deepcopy(module.net)
    assert torch.equal(twin[0].weight, module.net[0].weight)
    assert pickle.loads(pickle.dumps(pruner)).mask == pruner.mask


def test_training_that_ends_early_says_which_prunings_never_came(tmp_path: Any) -> None:
    with pytest.warns(UserWarning, match=r"ended after 2 epochs, so it never pruned at \[7\]"):
        fit(tmp_path, PruneAtEpoch([1, 7], 0.5), max_epochs=2)


def test_fast_dev_run_leaves_no_file(tmp_path: Any) -> None:
    pruner = PruneAtEpoch([5], 0.5, criterion="movement")
    trainer(tmp_path, [pruner], fast_dev_run=True).fit(Tiny(), loader())
    assert not list(tmp_path.rglob("*"))


def test_checkpoint_loads_into_the_plain_model_already_sparse(tmp_path: Any) -> None:
    pruner = PruneAtEpoch(PRUNE_AT, AMOUNT)
    saver = pl.callbacks.ModelCheckpoint(tmp_path, "kept")
    module = Tiny()
    trainer(tmp_path, [pruner, saver], enable_checkpointing=True).fit(module, loader())
    stored = torch.load(tmp_path / "kept.ckpt", weights_only=True)["state_dict"]
    plain = nn.ModuleDict({"net": network()})
    plain.load_state_dict(stored, strict=True)
    for name, keep in pruner.mask.items():
        weight = plain.get_parameter(name)
        assert not weight[~keep].count_nonzero()
        assert torch.equal(weight, module.get_parameter(name))


def test_the_best_checkpoint_holds_the_weights_that_were_validated(tmp_path: Any) -> None:
    saver = pl.callbacks.ModelCheckpoint(tmp_path, "best", monitor="val_loss", mode="min")
    module = Validated(lr=0.5)
    runner = trainer(
        tmp_path, [PruneAtEpoch([1, 2, 3, 4, 5], 0.5), saver], enable_checkpointing=True
    )
    runner.fit(module, loader(), loader(1))
    again = Validated()
    again.load_state_dict(torch.load(saver.best_model_path, weights_only=True)["state_dict"])
    (result,) = trainer(tmp_path, []).validate(again, loader(1), verbose=False)
    assert result["val_loss"] == pytest.approx(float(saver.best_model_score), rel=1e-5)


def test_a_layer_that_gets_no_gradient_raises_the_alarm(tmp_path: Any) -> None:
    module = Tiny(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 3)))
    with torch.no_grad():
        module.net[1].weight.mul_(1e-3)
    pruner = PruneAtEpoch(1, 0.4, min_keep=0)
    with (
        pytest.warns(UserWarning, match=r"no gradient reaches net\.0\.weight, net\.1\.weight"),
        pytest.warns(UserWarning, match=r"No weight is left in net\.1\.weight"),
    ):
        fit(tmp_path, pruner, max_epochs=2, module=module)


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow", "random"])
def test_scoring_changes_nothing_but_the_mask(criterion: str, tmp_path: Any) -> None:
    class Noisy(Tiny):
        def forward(self, x: Any) -> Any:
            return self.net(x)

    def run(pruner: PruneAtEpoch) -> dict[str, Any]:
        torch.manual_seed(3)
        net = network()
        net.append(nn.Dropout(0.5))
        module = Noisy(net)
        data = torch.utils.data.DataLoader(loader().dataset, batch_size=10, shuffle=True)
        trainer(tmp_path, [pruner], max_epochs=3).fit(module, data)
        return module.state_dict()

    scored = run(PruneAtEpoch([0, 1], 0.0, criterion=criterion, batches=2))
    plain = run(PruneAtEpoch([0, 1], 0.0))
    for name, value in plain.items():
        assert torch.equal(value, scored[name]), name


def test_criteria_that_look_back_see_the_weights_before_training(tmp_path: Any) -> None:
    module = Tiny()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    pruner = PruneAtEpoch(2, 0.5, criterion="large_init", scope="layer")
    fit(tmp_path, pruner, module=module)
    for name, keep in pruner.mask.items():
        first = before[name].abs()
        assert first[keep].min() >= first[~keep].max()


def test_pruning_does_not_recompile(tmp_path: Any) -> None:
    compiled = 0

    def backend(graph: Any, _: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return graph.forward

    torch._dynamo.reset()
    module = Tiny()
    module.net = torch.compile(module.net, backend=backend)
    pruner = PruneAtEpoch([1, 2, 3], 0.5, scope="layer")
    fit(tmp_path, pruner, module=module)
    assert pruner.mask.density == pytest.approx(0.125, abs=0.01)
    assert list(pruner.mask) == ["net.0.weight", "net.3.weight", "net.4.weight"]
    assert compiled == 1


def test_optimisers_are_free_again_after_the_fit(tmp_path: Any) -> None:
    module = Tiny()
    runner = trainer(tmp_path, [PruneAtEpoch([1, 2], 0.3)])
    runner.fit(module, loader())
    for weight in module.parameters():
        weight.grad = torch.ones_like(weight)
    runner.optimizers[0].step()
    assert module.net[0].weight.count_nonzero() == module.net[0].weight.numel()


def test_two_pruners_keep_separate_states(tmp_path: Any) -> None:
    first = PruneAtEpoch(1, 0.5, include="net.0.*")
    rest = PruneAtEpoch(1, 0.25, exclude="net.0.*")
    fit(tmp_path, first, rest, max_epochs=2)
    assert first.state_key != rest.state_key
    assert (first.mask.density, rest.mask.density) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        (FSDPStrategy, "FSDPStrategy: it flattens parameters"),
        (type("XLAFSDPStrategy", (FSDPStrategy,), {}), "XLAFSDPStrategy: it flattens parameters"),
        (DeepSpeedStrategy, "DeepSpeedStrategy: its engine steps copies"),
    ],
)
def test_strategies_without_whole_weights_are_refused_by_name(
    tmp_path: Any, strategy: type, why: str
) -> None:
    runner = trainer(tmp_path, [PruneAtEpoch(1)])
    runner.strategy.__class__ = type("Mine", (strategy,), {})
    with pytest.raises(ValueError, match=f"PruneAtEpoch does not work with {why}"):
        PruneAtEpoch(1).setup(runner, Tiny(), "fit")


def test_parameters_that_no_optimiser_holds_are_named(tmp_path: Any) -> None:
    class Replaced(Tiny):
        def on_fit_start(self) -> None:
            self.net[0].weight = nn.Parameter(self.net[0].weight.detach().clone())

    with pytest.warns(UserWarning, match=r"no optimiser holds net\.0\.weight"):
        fit(tmp_path, PruneAtEpoch(1, 0.5), max_epochs=2, module=Replaced())


def test_gradient_criteria_refuse_manual_optimisation(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="automatic optimization"):
        fit(tmp_path, PruneAtEpoch(1, criterion="snip"), module=TwoOptimizers())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": []}, "one or more different epochs"),
        ({"epochs": [2, 2]}, "one or more different epochs"),
        ({"epochs": -1}, "counted from 0"),
        ({"epochs": 1, "amount": 1.5}, "amount=1.5: a share to prune"),
        ({"epochs": 1, "amount": [0.1, 0.2]}, "gives 2 amounts"),
        ({"epochs": Every(1), "amount": [0.1, 0.2]}, "gives 2 amounts"),
        ({"epochs": 1, "of": "remainder"}, "did you mean 'remaining'"),
        ({"epochs": 1, "scope": "globl"}, "did you mean 'global'"),
        ({"epochs": 1, "criterion": "magnitud"}, "did you mean 'magnitude'"),
        ({"epochs": 1, "scope": "2:4", "amount": 0.5}, "leave amount out"),
        ({"epochs": 1, "min_keep": -1}, "min_keep=-1"),
    ],
)
def test_wrong_options_say_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        PruneAtEpoch(**options)


def test_schedules_can_be_given_as_numbers_lists_or_objects() -> None:
    for given in (3, [3], AtEpochs([3])):
        schedule = PruneAtEpoch(given).schedule
        assert [e for e in range(6) if schedule.due(e)] == [3]


class Replaces(pl.Callback):
    """Between epochs, as fine-tuning may: another parameter, and an optimiser for it."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 3:
            pl_module.net[0].weight = torch.nn.Parameter(torch.randn(16, 8))
            trainer.optimizers = [torch.optim.SGD(pl_module.parameters(), lr=0.1, momentum=0.9)]


def test_what_was_replaced_between_epochs_is_bound_anew(tmp_path: Path) -> None:
    prune = PruneAtEpoch(epochs=1, amount=0.5)
    watch = ZeroAfterEachStep(prune)
    trainer(tmp_path, [Replaces(), prune, watch]).fit(Tiny(network()), loader())
    assert watch.steps == 4 * BATCHES
