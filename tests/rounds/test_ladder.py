"""How many weights each level keeps, and that the others are exactly zero all the time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from small import Small, Watch, copied, find

from ltpl.rounds.find import Run
from ltpl.tickets import Snapshot

TOTAL = 60 + 30
WEIGHTS = ("net.0.weight", "net.4.weight")


def kept(run: Run) -> list[int]:
    return [result.kept for result in run.results]


def layers(run: Run) -> list[list[int]]:
    return [[kept for _, kept, _ in result.layers] for result in run.results]


def falling(start: int, amounts: list[float]) -> list[int]:
    counts = [start]
    for amount in amounts:
        counts.append(counts[-1] - round(amount * counts[-1]))
    return counts


def test_each_level_keeps_exactly_its_share_of_the_level_before(tmp_path: Path) -> None:
    amount = random.uniform(0.15, 0.6)
    run = find(tmp_path / "run", levels=3, prune={"amount": amount}, trainer={"max_epochs": 1})
    assert kept(run) == falling(TOTAL, [amount] * 3)
    assert [r.density for r in run.results] == [n / TOTAL for n in kept(run)]
    for result in run.results:
        assert result.total == TOTAL
        assert sum(run.mask(result.round)[name].sum() for name in WEIGHTS) == result.kept
        all_of_it = result.parameters - TOTAL + result.kept
        assert result.density_all == all_of_it / sum(p.numel() for p in Small().parameters())


def test_each_level_has_an_amount_of_its_own_where_a_list_is_given(tmp_path: Path) -> None:
    amounts = [0.5, 0.1, 0.3]
    run = find(tmp_path / "run", levels=None, prune={"amount": amounts}, trainer={"max_epochs": 1})
    assert kept(run) == falling(TOTAL, amounts)


def test_the_output_layer_is_pruned_at_its_own_rate(tmp_path: Path) -> None:
    prune = {"amount": 0.4, "rates": {"output": 0.5}, "scope": "layer"}
    run = find(tmp_path / "run", levels=2, prune=prune, trainer={"max_epochs": 1})
    hidden, output = falling(60, [0.4] * 2), falling(30, [0.2] * 2)
    assert layers(run) == [[h, o] for h, o in zip(hidden, output, strict=True)]


@pytest.mark.parametrize("one_shot", [False, True])
def test_densities_are_reached_exactly(tmp_path: Path, one_shot: bool) -> None:
    densities = [0.5, 0.3, 0.1]
    options = {"levels": None, "densities": densities, "one_shot": one_shot}
    run = find(tmp_path / "run", trainer={"max_epochs": 1}, **options)
    assert kept(run) == [TOTAL, *(round(d * TOTAL) for d in densities)]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_pruned_at_once_a_level_has_the_counts_of_the_ladder(tmp_path: Path, scope: str) -> None:
    prune = {"amount": 0.37, "scope": scope, "rates": {"output": 0.5} if scope == "layer" else None}
    options = {"levels": 3, "prune": prune, "trainer": {"max_epochs": 1}}
    ladder = find(tmp_path / "ladder", **options)
    at_once = find(tmp_path / "at_once", one_shot=True, **options)
    assert kept(at_once) == kept(ladder)
    if scope == "layer":
        assert layers(at_once) == layers(ladder)


def test_pruned_at_once_every_level_ranks_the_dense_networks_weights(tmp_path: Path) -> None:
    run = find(tmp_path / "run", levels=3, one_shot=True)
    trained = Snapshot.load(run.path / "seed_0/round_00/final.safetensors").weights
    for level in (1, 2, 3):
        mask = run.mask(level)
        sizes = torch.cat([trained[name].abs().flatten() for name in WEIGHTS])
        keep = torch.cat([mask[name].flatten() for name in WEIGHTS])
        assert sizes[keep].min() >= sizes[~keep].max()


def test_the_ladder_ranks_the_weights_of_the_level_before(tmp_path: Path) -> None:
    run = find(tmp_path / "run", levels=3)
    for level in (1, 2, 3):
        parent = run.path / f"seed_0/round_{level - 1:02}/final.safetensors"
        trained = Snapshot.load(parent).weights
        before, mask = run.mask(level - 1), run.mask(level)
        alive = torch.cat([before[name].flatten() for name in WEIGHTS])
        sizes = torch.cat([trained[name].abs().flatten() for name in WEIGHTS])[alive]
        keep = torch.cat([mask[name].flatten() for name in WEIGHTS])[alive]
        assert sizes[keep].min() >= sizes[~keep].max()


def test_masks_only_shrink_and_pruned_weights_are_zero_at_every_step(tmp_path: Path) -> None:
    watch = Watch(keep_weights=True)
    run = find(tmp_path / "run", watch, levels=3, rewind={"at": "1ep", "optimizer": "restored"})
    for level in (1, 2, 3):
        mask, before = run.mask(level), run.mask(level - 1)
        folder = run.path / f"seed_0/round_{level:02}"
        final = Snapshot.load(folder / "final.safetensors").weights
        fit = watch.of(f"seed_0/round_{level:02}")
        for name in WEIGHTS:
            assert not (mask[name] & ~before[name]).any()
            assert len(fit.alive) == 8
            for weights in (fit.weights, *fit.alive, final, run.ticket(level).start.weights):
                assert not weights[name][~mask[name]].count_nonzero()
            assert final[name][mask[name]].count_nonzero()


def test_what_is_written_is_what_was_trained_and_tested(tmp_path: Path) -> None:
    watch = Watch(keep_weights=True)
    run = find(tmp_path / "run", watch)
    for level in (0, 1):
        name = f"seed_0/round_{level:02}"
        final = Snapshot.load(run.path / name / "final.safetensors")
        last = watch.of(name).alive[-1]
        ((_, tested),) = [t for t in watch._tests if t[0] == name]
        assert copied(Small()).keys() == {**final.weights, **final.buffers}.keys()
        for key, value in {**final.weights, **final.buffers}.items():
            assert torch.equal(value, last[key])
            assert torch.equal(value, tested[key])
