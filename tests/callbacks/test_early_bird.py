from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from birds import EPOCHS, Birds, Epochs, Watcher, fit, found_by, masked, matrix, network
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import BATCHES, ZeroAfterEachStep
from torch import nn

from ltpl.callbacks import EarlyBird, NetworkSlimming, PruneAtEpoch, RewindToEpoch, Trajectory
from ltpl.callbacks.distances import picture
from ltpl.masks import prune
from ltpl.masks.candidate import mask_at
from ltpl.tickets.ticket import Ticket

EASY = {"eps": 0.35, "window": 2}  # found after two or three epochs


@pytest.mark.parametrize("rule", ["paper", "window"])
@pytest.mark.parametrize("eps", [0.1, 0.15, 0.25])
def test_what_is_found_is_what_the_definition_says(rule: str, eps: float, tmp_path: Path) -> None:
    amounts, seen = [0.25, 0.4, 0.7], Watcher()
    bird = EarlyBird(amounts, eps, window=3, rule=rule, action="save", min_keep=0)
    fit(tmp_path, bird, seen)
    for amount in amounts:
        by_hand = [masked(gammas, amount) for gammas in seen.gammas[1:]]
        epoch = found_by(rule, by_hand, 3, eps)
        assert bird.found[amount] == epoch
        assert torch.equal(bird.distances(amount), matrix(by_hand))
        assert bird.epochs(amount) == list(range(1, EPOCHS + 1))
        if epoch is not None:
            for leaf in ("weight", "bias"):
                mask = [bird.masks[amount][f"net.{i}.{leaf}"] for i in (1, 4)]
                assert torch.equal(torch.cat(mask), by_hand[epoch - 1])


@pytest.mark.filterwarnings("ignore:.*the mask that was found differs in only")
def test_weights_by_magnitude_are_watched_too(tmp_path: Path) -> None:
    seen = Watcher()
    bird = EarlyBird(0.6, 0.08, 2, action="save", channels="magnitude", exclude="net.6.*")
    module = fit(tmp_path, bird, seen)
    by_hand = []
    for weights in seen.weights:
        module.load_state_dict(weights)
        mask = prune(module, 0.6, exclude="net.6.*")
        assert list(mask) == ["net.0.weight", "net.3.weight"]
        by_hand.append(torch.cat([keep.flatten() for keep in mask.values()]))
    assert torch.equal(bird.distances(), matrix(by_hand))
    assert bird.epochs() == list(range(EPOCHS + 1))
    assert bird.found[0.6] == found_by("paper", by_hand[1:], 2, 0.08)


def test_relative_eps_is_a_share_of_the_distance_of_random_masks(tmp_path: Path) -> None:
    seen, amounts = Watcher(), [0.1, 0.5]
    bird = EarlyBird(amounts, 0.3, 2, action="save", relative=True, min_keep=0)
    fit(tmp_path, bird, seen)
    for amount in amounts:
        by_hand = [masked(gammas, amount) for gammas in seen.gammas[1:]]
        assert bird.found[amount] == found_by("paper", by_hand, 2, 0.6 * amount * (1 - amount))


def test_stop_ends_training_after_that_epoch(tmp_path: Path) -> None:
    bird, count = EarlyBird(**EASY), Epochs()
    fit(tmp_path, bird, count, max_epochs=50)
    assert bird.found[0.5] == count.trained < 20


def test_stop_waits_for_min_epochs(tmp_path: Path) -> None:
    bird, count = EarlyBird(**EASY), Epochs()
    fit(tmp_path, bird, count, max_epochs=50, min_epochs=22)
    assert bird.found[0.5] < count.trained == 22
    assert bird.epochs() == list(range(1, 23))


def test_the_amount_that_acts_is_the_first_or_the_one_named(tmp_path: Path) -> None:
    for named in (None, 0.7):
        bird, count = EarlyBird([0.3, 0.7], act_on=named, **EASY), Epochs()
        fit(tmp_path, bird, count, max_epochs=50)
        assert bird.found[named or 0.3] == count.trained


@pytest.mark.filterwarnings("ignore:.*the mask that was found differs in only")
@pytest.mark.parametrize("channels", ["gamma", "magnitude"])
def test_prune_masks_from_the_next_epoch_on(channels: str, tmp_path: Path) -> None:
    bird = EarlyBird([0.4, 0.7], action="prune", act_on=0.7, channels=channels, **EASY)
    zeros, count, seen = ZeroAfterEachStep(bird), Epochs(), Watcher()
    module = fit(tmp_path, bird, zeros, count, seen, Trajectory(), min_epochs=12, max_epochs=12)
    assert count.trained == 12
    assert bird.pruned_at == [bird.found[0.7]]
    assert zeros.steps == (12 - bird.pruned_at[0]) * BATCHES
    assert bird.mask == bird.masks[0.7]
    for name, keep in bird.mask.items():
        weight = module.get_parameter(name)
        assert torch.equal(weight != 0, keep)
        assert seen.weights[bird.found[0.7]][name][~keep].count_nonzero()  # still dense then
    assert sum(n.endswith("bias") for n in bird.mask) == (2 if channels == "gamma" else 0)


def test_found_when_training_ends_it_prunes_as_training_ends(tmp_path: Path) -> None:
    bird, seen = EarlyBird(action="prune", window=2, rule="window", eps=0.49), Watcher()
    module = fit(tmp_path, bird, seen, max_epochs=2)
    assert bird.pruned_at == [2]
    for name, keep in bird.mask.items():
        assert torch.equal(module.get_parameter(name) != 0, keep)


def test_save_goes_on_and_keeps_what_was_found(tmp_path: Path) -> None:
    bird, count, seen = EarlyBird([0.5, 0.3], action="save", **EASY), Epochs(), Watcher()
    fit(tmp_path, bird, count, seen)
    assert count.trained == EPOCHS
    assert bird.mask is None
    for amount, epoch in bird.found.items():
        assert Path(bird.tickets[amount]) == tmp_path / f"early_bird_{amount}"
        ticket = Ticket.load(bird.tickets[amount])
        assert ticket.mask == bird.masks[amount]
        assert ticket.start.step == f"{epoch}ep"
        assert ticket.start.position["steps"] == epoch * BATCHES
        assert ticket.start.optimizers[0]["state"]
        for name, weight in {**ticket.start.weights, **ticket.start.buffers}.items():
            assert torch.equal(weight, seen.weights[epoch][name])
        expected = {"by": "EarlyBird", "epoch": epoch, "amount": amount, "rule": "paper", **EASY}
        assert expected.items() <= ticket.made_by.items()
        newest = bird.distances(amount)[epoch - 1]
        assert ticket.made_by["distances"]["to_previous"] == newest[epoch - 2]


def test_rewinding_follows_the_pruning(tmp_path: Path) -> None:
    class AfterRewind(pl.Callback):
        def on_prune(self, trainer: Any, pl_module: Any, mask: Any) -> None:
            self.weights = {n: p.detach().clone() for n, p in pl_module.named_parameters()}

    bird, seen, after = EarlyBird(action="prune", **EASY), Watcher(), AfterRewind()
    rewinder = RewindToEpoch(1)
    fit(tmp_path, bird, rewinder, seen, after, min_epochs=10, max_epochs=10)
    assert len(rewinder.history) == 1
    assert rewinder.history[0].startswith(f"after {bird.found[0.5]} epochs")
    for name, weight in after.weights.items():
        keep = bird.mask.get(name, torch.tensor(True))
        assert torch.equal(weight, seen.weights[1][name] * keep)


def test_several_pruners_that_are_due_together_are_rewound_once(tmp_path: Path) -> None:
    bird = EarlyBird(action="prune", window=2, rule="window", eps=0.49)
    weights, rewinder = PruneAtEpoch(2, 0.5), RewindToEpoch(0)
    fit(tmp_path, weights, bird, rewinder, max_epochs=4)
    assert weights.pruned_at == bird.pruned_at == [2]
    assert len(rewinder.history) == 1


def test_with_slimming_the_masks_are_those_of_the_thinned_network(tmp_path: Path) -> None:
    bird, seen = EarlyBird(action="save", min_keep=0, **EASY), Watcher()
    fit(tmp_path, NetworkSlimming(l1=1e-2, amount=None), bird, seen)
    by_hand = [masked(gammas, 0.5) for gammas in seen.gammas[1:]]
    assert torch.equal(bird.distances(), matrix(by_hand))


@pytest.mark.filterwarnings("ignore:.*the mask that was found differs in only")
def test_every_distance_goes_to_the_loggers(tmp_path: Path) -> None:
    class Logged(pl.Callback):
        def __init__(self) -> None:
            self.rows: list[dict[str, float]] = []

        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            self.rows.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "board")]
    bird, last = EarlyBird(0.4, 0.2, 3, action="save", channels="magnitude"), Logged()
    fit(tmp_path, bird, last, logger=loggers, log_every_n_steps=1)
    events = EventAccumulator(loggers[1].log_dir).Reload()
    table = bird.distances()
    tags = {t for t in events.Tags()["scalars"] if t.startswith("early_bird/")}
    shown = ("distance", "to_window", "to_init", "found")
    assert tags == {f"early_bird/{what}/0.4" for what in shown}

    def written(what: str) -> list[float]:
        return [event.value for event in events.Scalars(f"early_bird/{what}/0.4")]

    steps = [float(table[i, i - 1]) for i in range(2, EPOCHS + 1)]
    assert written("distance") == pytest.approx(steps)
    assert written("to_window") == pytest.approx(
        [max(steps[i - 2 : i + 1]) for i in range(2, len(steps))]
    )
    assert written("to_init") == pytest.approx([float(table[i, 0]) for i in range(1, EPOCHS + 1)])
    flags = [float(bird.found[0.4] is not None and e >= bird.found[0.4]) for e in range(1, 9)]
    assert written("found") == flags
    assert last.rows[-1]["early_bird/distance/0.4"] == pytest.approx(float(steps[-2]))
    header = Path(loggers[0].log_dir, "metrics.csv").read_text().splitlines()[0]
    assert "early_bird/to_window/0.4" in header.split(",")


def test_the_picture_shows_each_pair_of_epochs(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    bird = EarlyBird(0.5, action="stop", **EASY)
    fit(tmp_path, bird, logger=logger, log_every_n_steps=1, min_epochs=6, max_epochs=6)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert [t for t in events.Tags()["images"]] == ["early_bird/distances/0.5"]
    shown = events.Images("early_bird/distances/0.5")
    assert [event.step for event in shown] == [bird.found[0.5] * BATCHES, 6 * BATCHES]
    image = decoded(shown[-1].encoded_image_string)
    assert torch.equal(image, picture(bird.distances(), 0.5, bird.found[0.5] - 1))
    assert image.shape == (3, 6 * 53, 6 * 53)


def decoded(png: bytes) -> torch.Tensor:
    io = pytest.importorskip("PIL.Image")
    from io import BytesIO

    import numpy as np

    return torch.from_numpy(np.array(io.open(BytesIO(png)))).permute(2, 0, 1)


def test_a_picture_has_its_first_epoch_at_the_top_left() -> None:
    side = 80
    distances = torch.tensor([[0.0, 0.1, 0.5], [0.1, 0.0, 0.3], [0.5, 0.3, 0.0]])
    image = picture(distances, 0.5, found=1)
    assert image.shape == (3, 106 * 3, 106 * 3)
    assert image.dtype == torch.uint8

    def at(row: int, column: int) -> list[int]:
        cell = image[:, row * 106 : (row + 1) * 106, column * 106 : (column + 1) * 106]
        assert torch.equal(cell, cell[:, :1, :1].expand_as(cell))
        return cell[:, 0, 0].tolist()

    assert at(0, 0) == at(2, 2) == [253, 231, 37]
    assert at(1, 1) == [220, 20, 60]
    assert at(0, 2) == at(2, 0) == [68, 1, 84]
    assert at(0, 1) == at(1, 0) != at(1, 2) == at(2, 1)
    assert picture(torch.zeros(200, 200), 0.5).shape == (3, 800, 800)
    assert picture(torch.zeros(side, side), 0.5).shape == (3, 320, 320)


def test_other_loggers_get_no_picture_and_no_logger_is_needed(tmp_path: Path) -> None:
    bird = EarlyBird(**EASY)
    fit(tmp_path, bird, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert bird.found[0.5] is not None


def test_all_distances_are_written_beside_the_logs(tmp_path: Path) -> None:
    bird = EarlyBird([0.5, 0.7], action="save", **EASY)
    fit(tmp_path, bird)
    written = json.loads((tmp_path / "early_bird.json").read_text())
    assert {"rule": "paper", "channels": "gamma", "relative": False, **EASY}.items() <= (
        written.items()
    )
    for amount in (0.5, 0.7):
        entry = written["amounts"][str(amount)]
        assert entry["distances"] == bird.distances(amount).tolist()
        assert (entry["found"], entry["epochs"]) == (bird.found[amount], bird.epochs(amount))


def test_files_of_an_earlier_run_stay(tmp_path: Path) -> None:
    first, second = EarlyBird(action="save", **EASY), EarlyBird(action="save", **EASY)
    fit(tmp_path, first, seed=1)
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert len(kept) == 3
    fit(tmp_path, second, seed=2)
    assert {p: p.read_bytes() for p in kept} == kept
    assert second.tickets == {0.5: str(tmp_path / "early_bird_0.5-v1")}
    assert (tmp_path / "early_bird-v1.json").is_file()
    third = EarlyBird(action="save", **EASY)
    fit(tmp_path, third, seed=1)
    assert third.tickets == first.tickets  # the very same ticket


def test_a_ticket_of_which_only_half_was_written_is_completed(tmp_path: Path) -> None:
    first, other, again = (EarlyBird(action="save", **EASY) for _ in range(3))
    fit(tmp_path, first, seed=1)
    half = Path(first.tickets[0.5], "mask.safetensors")
    half.unlink()
    fit(tmp_path, other, seed=2)
    assert other.tickets != first.tickets
    assert not half.exists()
    fit(tmp_path, again, seed=1)
    assert again.tickets == first.tickets
    assert Ticket.load(half.parent).mask == first.masks[0.5]


def test_fast_dev_run_leaves_no_file(tmp_path: Path) -> None:
    fit(tmp_path, EarlyBird(action="prune"), fast_dev_run=True)
    assert not list(tmp_path.rglob("*"))


def test_constant_scaling_factors_give_no_mask_and_that_is_said_once(tmp_path: Path) -> None:
    class Still(Birds):
        def on_train_batch_end(self, *_: Any) -> None:
            for index in (1, 4):
                self.net[index].weight.data.fill_(0.5)

    bird = EarlyBird(eps=0.4, window=1)
    with pytest.warns(UserWarning, match="say nothing about its channels") as caught:
        fit(tmp_path, bird, module=Still(), max_epochs=4)
    assert sum("say nothing" in str(warning.message) for warning in caught) == 1
    assert bird.epochs() == []
    assert bird.found == {0.5: None}


def test_random_scaling_factors_at_initialisation_get_a_warning(tmp_path: Path) -> None:
    net = network()
    for index in (1, 4):
        nn.init.uniform_(net[index].weight)
    bird = EarlyBird(0.3, 0.2, window=2, action="save")
    module = Birds(net, lr=1e-4)
    with (
        pytest.warns(UserWarning, match="scaling factors differ before training"),
        pytest.warns(UserWarning, match=r"early_bird_0\.3: the mask that was found differs in onl"),
    ):
        fit(tmp_path, bird, module=module)
    assert bird.epochs()[0] == 0
    assert bird.found[0.3] == 3  # the mask of initialisation is no part of the window
    assert bird.distances().shape == (EPOCHS + 1, EPOCHS + 1)


def test_an_epoch_that_max_steps_cuts_short_is_not_watched(tmp_path: Path) -> None:
    bird = EarlyBird(eps=0.01)
    fit(tmp_path, bird, max_epochs=-1, max_steps=2 * BATCHES + 3)
    assert bird.epochs() == [1, 2]


def test_training_that_ends_too_early_says_that_it_never_pruned(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"ended after 3 epochs, and no ticket was found for 0\.5"):
        fit(tmp_path, EarlyBird(action="prune"), max_epochs=3)


def test_a_used_callback_starts_anew_with_a_new_fit(tmp_path: Path) -> None:
    bird = EarlyBird(action="prune", **EASY)
    for _ in range(2):
        fit(tmp_path, bird, min_epochs=5)
        assert bird.epochs() == list(range(1, EPOCHS + 1))
        assert bird.pruned_at == [bird.found[0.5]]


def test_two_birds_in_one_trainer_need_two_names(tmp_path: Path) -> None:
    options = {"amount": 0.5, "eps": 0.2, "window": 3, "action": "save", "min_keep": 0}
    paper, code = EarlyBird(**options), EarlyBird(rule="window", name="code", **options)
    seen = Watcher()
    fit(tmp_path, paper, code, seen)
    by_hand = [masked(gammas, 0.5) for gammas in seen.gammas[1:]]
    assert paper.found[0.5] == found_by("paper", by_hand, 3, 0.2)
    assert code.found[0.5] == found_by("window", by_hand, 3, 0.2)
    assert paper.state_key != code.state_key
    with pytest.raises(ValueError, match="name='early_bird': each EarlyBird"):
        fit(tmp_path, EarlyBird(), EarlyBird(0.3))


def test_a_checkpoint_of_any_epoch_gives_the_mask_to_compare_with(tmp_path: Path) -> None:
    bird = EarlyBird(0.5, action="save", **EASY)
    saver = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    module = fit(tmp_path, bird, saver, enable_checkpointing=True)
    found = bird.found[0.5]
    for epoch in (1, found, EPOCHS):
        mask = mask_at(tmp_path / f"epoch={epoch - 1}.ckpt", module, 0.5)
        distance = float(bird.distances()[epoch - 1, found - 1])
        assert bird.masks[0.5].distance(mask) == pytest.approx(distance)


def test_a_network_without_scaling_factors_is_refused_when_training_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No normalisation layer with a trainable scaling factor"):
        fit(tmp_path, EarlyBird(), module=Birds(nn.Sequential(nn.Linear(8, 3))))


def test_the_slot_that_prunes_rounds_is_not_for_it() -> None:
    with pytest.raises(ValueError, match="Rounds prune by another callback"):
        EarlyBird().draw(nn.Linear(2, 2), 0.5, "all", None, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 0.05}, "would always be found"),
        ({"amount": [0.5, 0.05]}, "eps=0.1 with amount=0.05"),
        ({"amount": 1.2}, "amount=1.2: shares to prune"),
        ({"amount": 0.0}, "0 < amount < 1"),
        ({"amount": []}, "shares to prune"),
        ({"amount": [0.5, 0.5]}, "each of them once"),
        ({"eps": 0.0}, "eps=0.0: a distance"),
        ({"eps": 1.0, "relative": True}, "above 0 and below 1"),
        ({"window": 0}, "window=0"),
        ({"rule": "window", "window": 1}, "from 2 on"),
        ({"rule": "papers"}, "did you mean 'paper'"),
        ({"action": "stopp"}, "did you mean 'stop'"),
        ({"channels": "gammas"}, "did you mean 'gamma'"),
        ({"trunk": "innr"}, "did you mean 'inner'"),
        ({"reduction": "mx"}, "did you mean 'max'"),
        ({"kinds": "bach"}, "did you mean 'batch'"),
        ({"act_on": 0.3}, r"act_on=0.3: one of the amounts watched, \[0.5\]"),
        ({"min_keep": -1}, "min_keep=-1"),
    ],
)
def test_wrong_options_say_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyBird(**options)


def test_an_amount_that_is_not_watched_is_named() -> None:
    with pytest.raises(ValueError, match=r"amount=0\.4 is not watched, but \[0\.5\]"):
        EarlyBird().distances(0.4)
