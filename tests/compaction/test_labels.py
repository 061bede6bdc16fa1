"""Labels, against a union-find that joins one pair at a time."""

from __future__ import annotations

import numpy as np
import pytest

from ltpl.compaction.labels import FROZEN, Labels


def smallest(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Return the smallest member of each one's class, by joining sets."""
    sets = {i: {i} for i in range(count)}
    for a, b in pairs:
        joined = sets[a] | sets[b]
        for member in joined:
            sets[member] = joined
    return [min(sets[i]) for i in range(count)]


@pytest.mark.parametrize("number", [0, 3, 30, 300])
def test_classes_are_those_of_a_union_find(number: int) -> None:
    seed = np.random.SeedSequence().entropy
    draw = np.random.default_rng(seed)
    for _ in range(10):
        labels, pairs = Labels(), []
        ids = labels.fresh(200)
        for _ in range(number):
            a, b = (draw.choice(ids, draw.integers(1, 4)) for _ in range(2))
            a, b = a[: len(b)], b[: len(a)]
            labels.tie(a, b)
            pairs += list(zip(a.tolist(), b.tolist(), strict=True))
        if number:
            labels.freeze(ids[:2])
            pairs += [(int(i), FROZEN) for i in ids[:2]]
        assert labels.classes().tolist() == smallest(labels.count, pairs), seed


def test_a_long_chain_is_one_class() -> None:
    labels = Labels()
    ids = labels.fresh(5000)
    order = np.random.default_rng().permutation(ids)
    labels.tie(order[1:], order[:-1])
    assert set(labels.classes()[ids]) == {ids[0]}


def test_rows_are_tied_to_their_first() -> None:
    labels = Labels()
    rows = labels.fresh(6).reshape(2, 3)
    labels.tie(rows, rows[:, :1])
    assert labels.classes()[rows].tolist() == [[1, 1, 1], [4, 4, 4]]


def test_what_is_not_tied_stands_alone() -> None:
    labels = Labels()
    ids = labels.fresh(4)
    assert labels.classes()[ids].tolist() == ids.tolist()
    labels.freeze(ids[1:2])
    assert labels.classes()[ids].tolist() == [ids[0], FROZEN, ids[2], ids[3]]
