from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from ltpl.tickets.result import FILE, Result, branches, results


def some(seed: int = 0, level: int = 1) -> Result:
    total = random.randrange(10, 100)
    return Result(
        seed=seed,
        round=level,
        kept=random.randrange(1, total),
        total=total,
        parameters=total + 7,
        layers=[("net.0.weight", 1, total)],
        early_stop={"val_loss": random.random()},
        early_stop_step=3,
        seconds=random.random(),
        made_by={"policy": "rewind"},
    )


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    result = some()
    result.save(tmp_path / FILE)
    assert Result.load(tmp_path / FILE) == result
    said = json.loads((tmp_path / FILE).read_text())
    assert said["density"] == result.kept / result.total
    assert said["density_all"] == (result.kept + 7) / result.parameters


def test_a_network_without_prunable_weights_is_dense() -> None:
    assert Result(0, 0, 0, 0, 5, []).density == Result(0, 0, 0, 0, 5, []).density_all == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"format": "ltpl.result/3"}'])
def test_what_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match="is no result of a round"):
        Result.load(tmp_path / FILE)


def test_results_are_sorted_by_numbers_and_leave_branches_out(tmp_path: Path) -> None:
    wanted = [(0, 2), (0, 11), (0, 100), (2, 0), (10, 1)]
    for seed, level in random.sample(wanted, len(wanted)):
        some(seed, level).save(tmp_path / f"seed_{seed}/round_{level:02}" / FILE)
    some(0, 3).save(tmp_path / "branches/reinit/seed_0/round_03" / FILE)
    (tmp_path / "seed_0/round_04").mkdir()
    assert [(r.seed, r.round) for r in results(tmp_path)] == wanted
    assert [p.name for p in branches(tmp_path)] == ["reinit"]
    assert [r.round for r in results(tmp_path / "branches/reinit")] == [3]
    assert branches(tmp_path / "seed_0") == []
