from __future__ import annotations

import pytest
import torch
from torch import nn

from ltpl.masks import Enforcement, Mask, prune


def net_and_mask() -> tuple[nn.Module, Mask]:
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    mask = prune(net, 0.5)
    mask.apply_(net)
    return net, mask


def backward(net: nn.Module) -> None:
    net.zero_grad()
    net(torch.randn(5, 6)).square().sum().backward()


def test_stale_momentum_never_revives_a_pruned_weight() -> None:
    """Momentum gathered before the pruning would carry pruned weights away from zero."""
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        backward(net)
        optimizer.step()
    mask = prune(net, 0.5)
    rule = Enforcement(dict(net.named_parameters()), mask)
    rule.attach(optimizer)
    for name, keep in mask.items():
        slot = optimizer.state[net.get_parameter(name)]["momentum_buffer"]
        assert not slot[~keep].count_nonzero()
    for _ in range(5):
        backward(net)
        optimizer.step()
        for name, keep in mask.items():
            weight = net.get_parameter(name)
            assert not weight[~keep].count_nonzero()
            assert not optimizer.state[weight]["momentum_buffer"][~keep].count_nonzero()
            assert weight[keep].count_nonzero() == keep.sum()


def test_gradient_norm_does_not_see_the_dead() -> None:
    net, mask = net_and_mask()
    rule = Enforcement(dict(net.named_parameters()), mask)
    backward(net)
    live = [p.grad[mask[n]] if n in mask else p.grad for n, p in net.named_parameters()]
    expected = torch.cat([g.flatten() for g in live]).norm()
    before = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
    rule.zero_gradients()
    after = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
    torch.testing.assert_close(after, expected)
    assert after < before


def test_a_removed_handle_stops_enforcing() -> None:
    net, mask = net_and_mask()
    optimizer = torch.optim.Adam(net.parameters())
    for handle in Enforcement(dict(net.named_parameters()), mask).attach(optimizer):
        handle.remove()
    backward(net)
    optimizer.step()
    assert net[0].weight[~mask["0.weight"]].count_nonzero()


def test_pinned_weights_hold_their_value_and_the_kept_ones_train() -> None:
    net, mask = net_and_mask()
    values = {n: torch.randn_like(net.get_parameter(n)) for n in mask}
    optimizer = torch.optim.Adam(net.parameters(), weight_decay=0.1)
    Enforcement(dict(net.named_parameters()), mask, pinned=values).attach(optimizer)
    first = net[0].weight.detach().clone()
    backward(net)
    optimizer.step()
    for name, keep in mask.items():
        assert torch.equal(net.get_parameter(name)[~keep], values[name][~keep])
    assert not torch.equal(net[0].weight, first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_dtype(dtype: torch.dtype) -> None:
    net, mask = net_and_mask()
    net.to(dtype)
    optimizer = torch.optim.Adam(net.parameters())
    Enforcement(dict(net.named_parameters()), mask).attach(optimizer)
    net(torch.randn(5, 6, dtype=dtype)).square().sum().backward()
    optimizer.step()
    for name, keep in mask.items():
        assert not net.get_parameter(name)[~keep].count_nonzero()


def test_a_mask_that_does_not_fit_is_refused() -> None:
    mask = net_and_mask()[1]
    with pytest.raises(ValueError, match=r"'0\.weight' is not known"):
        Enforcement(dict(nn.Linear(6, 8).named_parameters()), mask)
