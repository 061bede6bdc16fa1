"""Scores by gradient, before or during training: SNIP, GraSP, SynFlow.

The model is borrowed: weights, buffers (BatchNorm statistics), gradients, training mode and the
state of the random number generators are the same afterwards, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.masks.shards import local, part

Loss = Callable[[nn.Module, Any], Tensor]
Reduce = Callable[[Tensor], Tensor]


def alone(tensor: Tensor) -> Tensor:
    """Return a tensor as it is: the mean over processes where there is one."""
    return tensor


def snip(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batches: Iterable[Any],
    loss: Loss,
    reduce: Reduce = alone,
) -> dict[str, Tensor]:
    """SNIP (Lee et al., 2019): |g w|, how much the loss feels the loss of a connection."""
    with borrowed(model, parameters.values()):
        total = _gradients(model, parameters, batches, loss, reduce)
        return {n: (g * parameters[n].detach()).abs() for n, g in total.items()}


def grasp(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batches: Iterable[Any],
    loss: Loss,
    reduce: Reduce = alone,
) -> dict[str, Tensor]:
    """GraSP (Wang et al., 2020): w (H g), keep the weights that carry the gradient flow.

    The published code divides logits by a temperature of 200; do so in `loss` to repeat it.
    """
    batches = list(batches)
    weights = list(parameters.values())
    with borrowed(model, weights):
        first = _gradients(model, parameters, batches, loss, reduce)
        product = [torch.zeros_like(w) for w in weights]
        for batch in batches:
            here = torch.autograd.grad(
                loss(model, batch), weights, create_graph=True, materialize_grads=True
            )
            parts = [(g * f).sum() for g, f in zip(here, first.values(), strict=True)]
            flow = torch.stack(parts).sum()
            curved = torch.autograd.grad(flow, weights, materialize_grads=True)
            for total, part in zip(product, curved, strict=True):
                total += part
        return {
            name: w.detach() * reduce(hg)
            for (name, w), hg in zip(parameters.items(), product, strict=True)
        }


def synflow(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], batches: Iterable[Any]
) -> dict[str, Tensor]:
    """SynFlow (Tanaka et al., 2020): |w| dR/d|w| of a network of absolute values, fed with ones.

    Needs no labels and no data, only one batch for its shape. Iterated, it leaves no layer empty.
    """
    inputs = model_inputs(next(iter(batches)))
    with borrowed(model, parameters.values()), absolute(model):
        output = model(*(torch.ones_like(x, dtype=torch.float64) for x in inputs))
        flow = first_tensor(output).sum()
        weights = list(parameters.values())
        gradients = torch.autograd.grad(flow, weights, materialize_grads=True)
        return {
            name: (g * w.detach()).abs()
            for (name, w), g in zip(parameters.items(), gradients, strict=True)
        }


def model_inputs(batch: Any) -> tuple[Tensor, ...]:
    """Return what of a batch goes into the network: the tensor, or the first of a tuple or list.

    Raises:
        ValueError: If there is no floating-point tensor there.
    """
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    inputs = tuple(first) if isinstance(first, (tuple, list)) else (first,)
    if all(isinstance(x, Tensor) and x.is_floating_point() for x in inputs):
        return inputs
    raise ValueError(
        f"synflow feeds ones of the shape of a batch, a tensor of floats; this batch starts with "
        f"{type(first).__name__}. Use another criterion, or call ltpl.masks.prune(batches=...)."
    )


@contextlib.contextmanager
def borrowed(model: nn.Module, follow: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """Put back buffers, gradients, modes and random states when the block ends; run uncompiled.

    Args:
        model: The network.
        follow: Parameters that need a gradient inside, also if they are frozen.
    """
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    gradients = [(p, p.grad) for p in model.parameters()]
    still = [(p, p.detach().clone()) for p in model.parameters() if not p.requires_grad]
    frozen = [p for p in follow if not p.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with (
            torch.random.fork_rng(devices=devices),
            torch.enable_grad(),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for parameter, before in still:  # a momentum encoder is updated in training_step
            parameter.data.copy_(before)
        for module, name, buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.data.copy_(before)
            module._buffers[name] = buffer  # a forward may have put another tensor there
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def only_kept(parameters: Mapping[str, nn.Parameter], mask: Mapping[str, Tensor]) -> Iterator[None]:
    """Let pruned weights be zero while the block runs; the tensors themselves are not touched."""
    with torch.no_grad():
        here = {name: local(parameters[name]) for name in mask}
    before = {name: tensor.data for name, tensor in here.items()}
    try:
        for name, data in before.items():
            keep = part(mask[name].to(data.device), parameters[name])
            here[name].data = data.masked_fill(~keep, 0)
        yield
    finally:
        for name, data in before.items():
            here[name].data = data


@contextlib.contextmanager
def absolute(model: nn.Module, additive: bool = True) -> Iterator[None]:
    """Make the network one of absolute values in float64 and eval mode while the block runs.

    Args:
        model: The network. Its own tensors come back untouched when the block ends.
        additive: Whether biases and running means count; without them only paths from the input
            carry anything.
    """
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    before = {name: t.data for name, t in tensors.items() if t.is_floating_point()}
    model.eval()
    try:
        for name, data in before.items():
            shift = name.endswith(("bias", "running_mean"))
            tensors[name].data = (
                data.double().abs() if additive or not shift else (data * 0.0).double()
            )
        yield
    finally:
        for name, data in before.items():
            tensors[name].data = data


def _gradients(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batches: Iterable[Any],
    loss: Loss,
    reduce: Reduce,
) -> dict[str, Tensor]:
    weights = list(parameters.values())
    total = {name: torch.zeros_like(w) for name, w in parameters.items()}
    for batch in batches:
        gradients = torch.autograd.grad(loss(model, batch), weights, materialize_grads=True)
        for name, gradient in zip(total, gradients, strict=True):
            total[name] += gradient
    return {name: reduce(gradient) for name, gradient in total.items()}


def first_tensor(output: Any) -> Tensor:
    """Return the first tensor of a network's output, whatever it is wrapped in."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output
