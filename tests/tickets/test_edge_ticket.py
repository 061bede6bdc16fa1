from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from ltpl.masks.edges import Edges
from ltpl.tickets import EdgeTicket, Snapshot


def ticket() -> EdgeTicket:
    index = torch.randint(9, (2, 40))
    edges = Edges.of(torch.cat([index, index.flip(0)], dim=1))
    return EdgeTicket(edges, torch.rand(edges.total) < 0.5, {"criterion": "learned"})


def test_what_is_saved_is_read_from_the_file_and_from_its_folder(tmp_path: Path) -> None:
    saved = ticket()
    saved.save(tmp_path / "edges.safetensors")
    for path in (tmp_path, tmp_path / "edges.safetensors"):
        read = EdgeTicket.load(path)
        assert torch.equal(read.edge_index, saved.edge_index)
        assert torch.equal(read.edges.ends, saved.edges.ends)
        assert (read.kept, read.total) == (saved.kept, saved.total)
        assert read.density == saved.kept / saved.total
        assert read.made_by == {"criterion": "learned"}


def test_the_pruned_graph_is_symmetric_and_has_every_self_loop() -> None:
    some = ticket()
    pruned, whole = some.edge_index.T.tolist(), some.edges.index.T.tolist()
    assert Counter(map(tuple, pruned)) == Counter((v, u) for u, v in pruned)
    assert [e for e in pruned if e[0] == e[1]] == [e for e in whole if e[0] == e[1]]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="edges"):
        EdgeTicket.load(tmp_path)
    Snapshot.take("0ep", torch.nn.Linear(1, 1)).save(tmp_path / "edges.safetensors")
    with pytest.raises(ValueError, match=r"is no ltpl\.edges"):
        EdgeTicket.load(tmp_path)


def test_a_mask_of_another_graph_is_refused() -> None:
    with pytest.raises(ValueError, match="one bool for each of the"):
        EdgeTicket(ticket().edges, torch.ones(3).bool())
