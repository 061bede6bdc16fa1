"""Checks that every compaction has to pass, made without the code that makes it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import map_arg
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves, tree_map

from ltpl.compaction import compact
from ltpl.compaction.analysis import Analysis
from ltpl.compaction.graph import trace
from ltpl.compaction.groups import coupling
from ltpl.compaction.values import Value, compressed
from ltpl.masks import Mask


def randomised(net: nn.Module) -> nn.Module:
    """Give normalisation layers and biases numbers as after a training."""
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, _NormBase):
                if layer.weight is not None:
                    layer.weight.uniform_(0.5, 1.5)
                    layer.bias.normal_(0, 0.3)
                if layer.running_mean is not None:
                    layer.running_mean.normal_(0, 0.3)
                    layer.running_var.uniform_(0.5, 1.5)
            elif isinstance(getattr(layer, "bias", None), nn.Parameter):
                layer.bias.normal_(0, 0.3)
    return net


def norms(net: nn.Module) -> list[str]:
    return [p for p, m in net.named_modules() if isinstance(m, _NormBase) and m.weight is not None]


def channels(net: nn.Module, share: float, beta: bool = True) -> Mask:
    """Draw a mask over scales, and shifts, each channel on its own."""
    keep = {}
    for path in norms(net):
        drawn = torch.rand(net.get_submodule(path).weight.numel()) >= share
        drawn[int(torch.randint(len(drawn), ()))] = True
        keep |= {f"{path}.weight": drawn} | ({f"{path}.bias": drawn} if beta else {})
    return Mask(keep)


def units(net: nn.Module, example: tuple[Any, ...], share: float) -> Mask:
    """Draw a mask of channels; those that are added together live and die together."""
    keep = {}
    found = coupling(net, example, norms(net)).units
    numbers = torch.cat(list(found.values())).max().clamp(min=0) + 1
    alive = torch.rand(int(numbers)) >= share
    for path, ids in found.items():
        drawn = alive[ids] | (ids < 0)
        keep |= {f"{path}.weight": drawn, f"{path}.bias": drawn}
    return Mask(keep)


def neurons(net: nn.Module, share: float) -> Mask:
    """Draw a mask over weights: whole neurons and channels; of layers that are added, the same."""
    keep: dict[str, Tensor] = {}
    drawn: dict[tuple[str, int], Tensor] = {}
    for path, layer in net.named_modules():
        weight = getattr(layer, "weight", None)
        if isinstance(layer, nn.Embedding) or not isinstance(weight, nn.Parameter):
            continue
        if weight.dim() < 2 or f"{path}.weight".lstrip(".") not in dict(net.named_parameters()):
            continue
        transposed = int(isinstance(layer, nn.modules.conv._ConvTransposeNd))
        parent, _, leaf = path.rpartition(".")
        place = parent if leaf.startswith("lin_") else path
        rows = torch.rand(weight.shape[transposed]) >= share
        rows = drawn.setdefault((place, len(rows)), rows)
        shape = [-1 if dim == transposed else 1 for dim in range(weight.dim())]
        keep[f"{path}.weight".lstrip(".")] = rows.view(shape).expand_as(weight).clone()
        for owner in (path, parent):
            name = f"{owner}.bias".lstrip(".")
            bias = dict(net.named_parameters()).get(name)
            if bias is not None and bias.shape == rows.shape and not transposed:
                keep[name] = rows
    return Mask(keep)


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def flat(output: Any) -> list[Tensor]:
    return [x for x in tree_leaves(output) if isinstance(x, Tensor)]


def apart(one: Any, other: Any) -> float:
    """Return the largest difference, as a share of the largest number."""
    worst = 0.0
    for a, b in zip(flat(one), flat(other), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert torch.isfinite(a).all()
        worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)))
    return worst


def fresh(example: tuple[Any, ...]) -> tuple[Any, ...]:
    return tree_map(
        lambda x: torch.randn_like(x) if isinstance(x, Tensor) and x.is_floating_point() else x,
        example,
    )


def doubled(data: tuple[Any, ...]) -> tuple[Any, ...]:
    return tree_map(
        lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, data
    )


def masked(net: nn.Module, mask: Mask | None) -> nn.Module:
    twin = copy.deepcopy(net)
    if mask is not None:
        mask.apply_(twin)
    return twin.eval()


@torch.no_grad()
def compacted(
    net: nn.Module,
    mask: Mask | None,
    example: tuple[Any, ...],
    others: Sequence[tuple[Any, ...]] = (),
    **options: Any,
) -> nn.Module:
    """Compact, and compare once more: on other data, in both precisions, by other code."""
    state = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    names = list(net.state_dict())
    try:
        small = compact(net, mask, example, **options)
    finally:
        assert list(net.state_dict()) == names
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
        assert [m.training for m in net.modules()] == modes
    assert all(p.numel() > 0 for p in small.parameters())
    assert size(small) <= size(net) + sum(
        len(p) for n, p in small.named_parameters() if n not in dict(net.named_parameters())
    )
    large, twin = masked(net, mask), copy.deepcopy(small).eval()
    for data in (fresh(example), *others):
        assert apart(large(*data), twin(*data)) <= 1e-4
    with_bias = [n for n, p in twin.named_parameters() if n.endswith("bias")]
    folded = any(
        not torch.isin(p, dict(large.named_parameters()).get(n, p.new_zeros(0))).all()
        for n, p in twin.named_parameters()
        if n in with_bias
    )
    exactly = copy.deepcopy(net).double()  # what a bias takes over is rounded to its own precision
    twin = compact(exactly, mask, doubled(example), **options).eval() if folded else twin.double()
    for data in (fresh(example), *others):
        assert apart(large.double()(*doubled(data)), twin(*doubled(data))) <= 1e-10
    return small


@torch.no_grad()
def what_is_known_is_true(net: nn.Module, mask: Mask | None, example: tuple[Any, ...]) -> int:
    """Run the graph on drawn data, and compare with every constant; return how many there were."""
    twin = masked(net, mask).double()
    example = doubled(fresh(example))
    graph = trace(twin, example)
    stored = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    analysis = Analysis(graph, stored, mask, twin)
    results: dict[Any, Any] = {}
    inputs, count = iter(tree_leaves(example)), 0
    for node in graph.nodes:
        if node.op == "placeholder":
            name = graph.tensors.get(node)
            results[node] = next(inputs) if name is None else stored.get(name)
            if results[node] is None:
                return count
        elif node.op == "call_function":
            args = map_arg(node.args, lambda n: results[n])
            kwargs = map_arg(node.kwargs, lambda n: results[n])
            results[node] = node.target(*args, **kwargs)
            found = analysis.values.get(node)
            if isinstance(found, Value):
                assert list(found.const.shape) == compressed(found.labels), node
                told = found.const.broadcast_to(results[node].shape)
                known = ~told.isnan()
                real = results[node].double()
                torch.testing.assert_close(
                    real[known], told[known].double(), msg=str(node.format_node())
                )
                assert not real[found.zero.broadcast_to(real.shape)].any(), node
                count += int(known.sum())
    return count
