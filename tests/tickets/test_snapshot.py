from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from ltpl.tickets import Snapshot


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    train(net, optimizer, 3)
    return net, optimizer


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()


def test_a_snapshot_shares_no_memory_with_what_it_was_taken_of() -> None:
    net, optimizer = trained()
    snapshot = Snapshot.take("3it", net, [optimizer])
    before = copy.deepcopy(snapshot)
    train(net, optimizer, 2)
    for name, weight in snapshot.weights.items():
        assert torch.equal(weight, before.weights[name])
    for now, then in zip(
        snapshot.optimizers[0]["state"].values(),
        before.optimizers[0]["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(now[key], then[key]) for key in now)


@pytest.mark.parametrize("through_file", [False, True])
def test_restoring_twice_gives_the_same_thing_twice(through_file: bool, tmp_path: Path) -> None:
    net, optimizer = trained()
    snapshot = Snapshot.take("3it", net, [optimizer])
    expected = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    if through_file:
        snapshot.save(tmp_path / "snapshot.safetensors")
        snapshot = Snapshot.load(tmp_path / "snapshot.safetensors")
    for _ in range(2):
        train(net, optimizer, 2)
        snapshot.restore_weights_(net)
        snapshot.restore_optimizer_(0, optimizer, slots=True)
        for name, value in expected[0].items():
            assert torch.equal(net.state_dict()[name], value)
        for index, state in expected[1]["state"].items():
            live = optimizer.state_dict()["state"][index]
            assert all(torch.equal(live[key], value) for key, value in state.items())


def test_a_fresh_optimiser_has_the_learning_rate_back_but_no_slots() -> None:
    net, optimizer = trained()
    snapshot = Snapshot.take("3it", net, [optimizer])
    optimizer.param_groups[0]["lr"] = 1e-6
    snapshot.restore_optimizer_(0, optimizer, slots=False)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert not optimizer.state
    train(net, optimizer, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 5]),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=30),
        lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
        lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, cycle_momentum=False),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.8)],
            milestones=[3],
        ),
    ],
    ids=["multistep", "cosine", "one cycle", "lambda", "cyclic", "restarts", "sequential"],
)
def test_a_schedule_replays_from_the_snapshot(make: object, tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scheduler = make(optimizer)

    def play(steps: int) -> list[float]:
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return rates

    play(1)
    Snapshot.take("1it", net, [optimizer], [scheduler]).save(tmp_path / "s")
    first = play(8)
    for _ in range(2):
        snapshot = Snapshot.load(tmp_path / "s")
        snapshot.restore_scheduler_(0, scheduler)
        snapshot.restore_optimizer_(0, optimizer, slots=False)
        assert play(8) == pytest.approx(first)


def test_plateau_schedule_comes_back(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    snapshot = Snapshot.take("0it", nn.Linear(2, 2), [optimizer], [scheduler])
    snapshot.save(tmp_path / "s")
    scheduler.step(1.0)
    scheduler.step(2.0)
    Snapshot.load(tmp_path / "s").restore_scheduler_(0, scheduler)
    assert scheduler.best == float("inf")


def test_a_snapshot_of_another_network_is_refused_by_name() -> None:
    snapshot = Snapshot.take("0ep", nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"snapshot of 0ep does not fit: 'weight'"):
        snapshot.restore_weights_(nn.Linear(4, 2))
