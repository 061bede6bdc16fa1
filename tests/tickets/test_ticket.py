from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ltpl.masks import Mask
from ltpl.tickets import Snapshot
from ltpl.tickets.ticket import MASK, START, Ticket


def drawn() -> Ticket:
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(8, 5)).sum().backward()
    optimizer.step()
    mask = Mask({"0.weight": torch.rand(4, 5) < 0.5})
    made_by = {"policy": "rewind", "pinned": False, "rewind": "1ep2it", "levels": [1, None, 0.5]}
    position = {"epoch": 1, "batches": 2}
    return Ticket(mask, Snapshot.take("1ep2it", net, [optimizer], [], position), made_by)


def test_a_ticket_comes_back_as_it_was(tmp_path: Path) -> None:
    ticket = drawn()
    ticket.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {MASK, START}
    back = Ticket.load(tmp_path)
    assert back.mask.digest == ticket.mask.digest
    assert (back.made_by, back.start.step) == (ticket.made_by, ticket.start.step)
    assert back.start.position == ticket.start.position
    for name, weight in ticket.start.weights.items():
        assert torch.equal(back.start.weights[name], weight)
    slot = ticket.start.optimizers[0]["state"][0]["momentum_buffer"]
    assert torch.equal(back.start.optimizers[0]["state"][0]["momentum_buffer"], slot)


def test_with_its_mask_a_ticket_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sees the mask may rely on the snapshot, wherever the writer is killed."""
    seen = []
    real = Mask.save
    monkeypatch.setattr(
        Mask, "save", lambda *a: seen.append((tmp_path / START).is_file()) or real(*a)
    )
    drawn().save(tmp_path)
    assert seen == [True]


def test_saving_a_ticket_leaves_its_mask_as_it_was(tmp_path: Path) -> None:
    ticket = drawn()
    ticket.save(tmp_path)
    assert ticket.mask.metadata == {}


@pytest.mark.parametrize("name", [MASK, START])
def test_a_ticket_that_is_missing_or_damaged_is_refused(tmp_path: Path, name: str) -> None:
    drawn().save(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match=name):
        Ticket.load(tmp_path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=name):
        Ticket.load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        Ticket.load(tmp_path)
