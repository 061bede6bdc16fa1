"""Is there still a way through the network? A layer that is empty, or cut off, learns nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ltpl.masks.adding import Adding
from ltpl.masks.errors import checked
from ltpl.masks.mask import Mask
from ltpl.masks.saliency import absolute, borrowed, first_tensor, model_inputs
from ltpl.masks.select import is_bias, named_parameters
from ltpl.masks.shards import must_lie_here


@dataclass(frozen=True)
class Live:
    """What of a network still leads somewhere; None where that is not known.

    Args:
        inputs: Features of the input from which a path of kept weights leads to an output.
        inputs_total: Features of the input.
        paths: Number of such paths.
        dead: Names of the masked parameters through whose kept weights no path runs.
    """

    inputs: int | None = None
    inputs_total: int | None = None
    paths: float | None = None
    dead: tuple[str, ...] = ()


@checked
def live(model: nn.Module, mask: Mask, *arguments: Any) -> Live:
    """Count the inputs that are still read, and the paths of kept weights to the outputs.

    Kept weights, and parameters that the mask does not speak of, are ones, biases are zero,
    activations pass on what they get, norms multiply by gamma, and pools add up: then the output,
    fed with ones, is the number of paths, exact below 2**53. Of images one is looked at, and every
    position of a kernel makes a path of its own. Of graphs a single node is looked at that is its
    own and only neighbour: what is counted are paths of weights, however many edges there are. So
    a layer with weights for the node and others for its neighbours (GraphSAGE) has paths through
    both; the sum of GIN and the attention of GAT count once.

    Args:
        model: The network; it is left as it was.
        mask: What is kept.
        arguments: What the network is called with: `x`, or `x, edge_index`.

    Returns:
        What is live. A network that cannot be followed so (attention between tokens, gates,
        recurrence) says only which parameters are empty.

    Raises:
        ValueError: If the mask does not fit the network.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
        >>> left = torch.tensor([[True, True, False], [True, False, False]])
        >>> live(net, Mask({"0.weight": left}), torch.rand(1, 3))
        Live(inputs=2, inputs_total=3, paths=3.0, dead=())
    """
    mask.must_fit(named_parameters(model))
    found = None
    try:
        must_lie_here("live", model)
        with borrowed(model), Adding(), torch.device(next(model.parameters()).device):
            model.eval()
            adding, dense = _Adding(model, _single(arguments)), Mask.dense(mask)
            if adding.is_linear(dense):
                # too many paths to count are paths all the same
                found = adding.count(mask) or adding.count(mask, even=True)
            if found and found.dead and not adding.uses(dense):
                found = None
    except Exception:  # somebody's network, in a way that nobody wrote it for
        found = None
    return found or Live(dead=mask.empty)


class _Adding:
    """A network of ones.

    Args:
        model: The network, in eval mode.
        arguments: What it is called with, floats as ones.
    """

    def __init__(self, model: nn.Module, arguments: Sequence[Any]):
        self.model = model
        self.names = dict(zip(named_parameters(model), dict(model.named_parameters()), strict=True))
        self.arguments = arguments
        tensors = dict([*model.named_parameters(), *model.named_buffers()])
        self.state = {n: _ones(n, t) for n, t in tensors.items() if t.is_floating_point()}

    def total(self, weights: Mapping[str, Tensor], arguments: Sequence[Any]) -> Tensor:
        """Return the sum of all outputs."""
        state = {**self.state, **{self.names[name]: w for name, w in weights.items()}}
        return _total(functional_call(self.model, state, tuple(arguments)))

    def is_linear(self, dense: Mask) -> bool:
        """Whether the output, nothing pruned, is a sum over paths: twice the input gives twice."""
        weights, twice = _weights(dense, even=True), [_doubled(x) for x in self.arguments]
        with torch.no_grad():
            return torch.equal(self.total(weights, twice), 2 * self.total(weights, self.arguments))

    def uses(self, dense: Mask) -> bool:
        """Whether the network, nothing pruned, has paths through all that is masked."""
        found = self.count(dense, even=True)
        return found is not None and not found.dead

    def count(self, mask: Mask, even: bool = False) -> Live | None:
        """Return what is live; None if a number gets too large.

        Args:
            mask: What is kept.
            even: Whether the weights into a unit sum to about one, which keeps numbers small; the
                paths are not counted then.
        """
        weights = _weights(mask, even)
        inputs = [x for x in _tensors(self.arguments) if x.requires_grad]
        total = self.total(weights, self.arguments)
        wanted = [*inputs, *weights.values()]
        gradients = torch.autograd.grad(total, wanted, materialize_grads=True)
        if not all(bool(g.isfinite().all()) for g in (total, *gradients)):
            return None
        paths = float(total.detach())
        flows = zip(weights.items(), gradients[len(inputs) :], strict=True)
        return Live(
            inputs=sum(int(g.count_nonzero()) for g in gradients[: len(inputs)]),
            inputs_total=sum(x.numel() for x in inputs),
            paths=None if even or paths % 1 else paths,
            dead=tuple(name for (name, w), flow in flows if not bool((w * flow).count_nonzero())),
        )


def _weights(mask: Mask, even: bool) -> dict[str, Tensor]:
    """Return one for what is kept, or so much that the weights into a unit sum to about one."""
    weights = {name: keep.double() for name, keep in mask.items() if not is_bias(name)}
    for weight in weights.values():
        if even:
            weight *= len(weight) / weight.sum().clamp_min(1)
        weight.requires_grad_()
    return weights


def _ones(name: str, tensor: Tensor) -> Tensor:
    """Return what stands for a parameter or buffer outside the mask."""
    value = 0.0 if is_bias(name) else -1.0 if name.rpartition(".")[2] == "eps" else 1.0
    return torch.full_like(tensor, value, dtype=torch.float64)  # GIN: 1 + eps is its own share


def _single(arguments: Sequence[Any]) -> list[Any]:
    """Return the arguments for one sample, or for one node with one edge, floats as ones."""
    first = arguments[0]
    if hasattr(first, "edge_index") and hasattr(first, "to_dict"):
        sizes = _sizes(first.x, first.edge_index)
        one = copy.copy(first)
        for name, value in first.to_dict().items():
            setattr(one, name, _one(value, *sizes))
        return [one, *arguments[1:]]
    edges = [a for a in arguments[1:] if _is_edges(a)][:1]
    sizes = _sizes(first, *edges)
    return [_one(argument, *sizes) for argument in arguments]


def _is_edges(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.int64 and x.dim() == 2 and len(x) == 2


def _sizes(x: Tensor, edges: Tensor | None = None) -> tuple[int, int]:
    """Return how many samples or nodes there are, and how many edges."""
    return x.shape[0], -1 if edges is None else edges.shape[1]


def _one(x: Any, samples: int, edges: int) -> Any:
    """Return what one sample or node, or one edge, has of a tensor."""
    if not isinstance(x, Tensor) or not x.dim():
        return x
    if edges >= 0 and _is_edges(x):
        return torch.zeros(2, 1, dtype=x.dtype)
    if x.shape[0] not in (samples, edges):
        return x
    shape = (1, *x.shape[1:])
    if not x.is_floating_point():
        return torch.zeros(shape, dtype=x.dtype)
    is_input = x.shape[0] == samples and (edges < 0 or x.dim() > 1)  # no weight of an edge
    return torch.ones(shape, dtype=torch.float64, requires_grad=is_input)


def _doubled(x: Any) -> Any:
    if isinstance(x, Tensor):
        return 2 * x if x.requires_grad else x
    if hasattr(x, "to_dict"):
        twice = copy.copy(x)
        for name, value in x.to_dict().items():
            setattr(twice, name, _doubled(value))
        return twice
    return x


def _tensors(found: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments or outputs."""
    if isinstance(found, Tensor):
        yield found
    elif hasattr(found, "to_dict"):
        yield from _tensors(found.to_dict())
    elif isinstance(found, (Mapping, list, tuple)):
        for value in found.values() if isinstance(found, Mapping) else found:
            yield from _tensors(value)


def _total(output: Any) -> Tensor:
    """Return the sum over all that a network returns."""
    sums = [x.double().sum() for x in _tensors(output) if x.is_floating_point()]
    return torch.stack(sums).sum()


@checked
def live_path(model: nn.Module, mask: Mask, batch: Any) -> bool:
    """Say whether any path of kept weights leads from the input to the output.

    A network without biases, whose kept weights are random positive numbers, is fed with random
    positive numbers: if zeros give another output, something arrived, and it came by a path.

    Args:
        model: The network; it is left as it was.
        mask: What is kept.
        batch: One batch, for its shape.

    Raises:
        ValueError: If the mask does not fit the network.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> left = torch.tensor([[True, True], [False, False]])
        >>> live_path(net, Mask({"0.weight": left, "2.weight": torch.tensor([[True, False]])}),
        ...           torch.rand(1, 2))
        True
        >>> live_path(net, Mask({"0.weight": left, "2.weight": torch.tensor([[False, True]])}),
        ...           torch.rand(1, 2))
        False
    """
    inputs = model_inputs(batch)
    parameters = named_parameters(model)
    mask.must_fit(parameters)
    generator = torch.Generator().manual_seed(0)

    def positive(like: Tensor) -> Tensor:
        values = torch.rand(like.shape, generator=generator, dtype=torch.float64)
        return (values + 0.5).to(like.device)

    with borrowed(model), absolute(model, additive=False), torch.no_grad():
        for name, keep in mask.items():
            scale = len(keep) / max(1, int(keep.count_nonzero()))  # a row sums to about 1
            parameters[name].data = positive(parameters[name]) * keep.to(parameters[name]) * scale
        something = first_tensor(model(*map(positive, inputs)))
        nothing = first_tensor(model(*(torch.zeros_like(x, dtype=torch.float64) for x in inputs)))
        return not torch.equal(something, nothing)


def cut_off(gradients: Mapping[str, Tensor]) -> list[str]:
    """Return the names whose gradient is zero everywhere: nothing after them reads them.

    This needs no knowledge of the network: an empty layer silences every layer that has no other
    way to the loss.
    """
    return [name for name, gradient in gradients.items() if not bool(gradient.count_nonzero())]
