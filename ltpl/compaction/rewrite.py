"""Rewriting: a network of the original class becomes one with fewer channels, in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ltpl.compaction.errors import CompactionError
from ltpl.compaction.literals import with_literals
from ltpl.compaction.spec import Spec, remember, spec_of


class Selecting(nn.Module):
    """Takes some channels of its input, then normalises them."""

    selected: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the chosen channels, normalised."""
        result: Tensor = super().forward(x.index_select(1, self.selected))
        return result


class SelectedBatchNorm1d(Selecting, nn.BatchNorm1d):
    """`BatchNorm1d` of some channels of its input."""


class SelectedBatchNorm2d(Selecting, nn.BatchNorm2d):
    """`BatchNorm2d` of some channels of its input."""


class SelectedBatchNorm3d(Selecting, nn.BatchNorm3d):
    """`BatchNorm3d` of some channels of its input."""


SELECTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SelectedBatchNorm1d,
    nn.BatchNorm2d: SelectedBatchNorm2d,
    nn.BatchNorm3d: SelectedBatchNorm3d,
}


@torch.no_grad()
def rebuild(model: nn.Module, spec: Spec, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Make `model` small in place: its parameters become `tensors`, and stay the same objects.

    Args:
        model: A network of the original class, dense.
        spec: What else has to change.
        tensors: Parameters and buffers of the compacted network, by name.

    Returns:
        The network; another object only if numbers of channels stood in its own `forward`.
    """
    done = spec_of(model)
    for path in spec.biases:
        layer: Any = model.get_submodule(path)
        zeros = layer.weight.new_zeros(len(tensors[f"{path}.bias"]))
        layer.bias = nn.Parameter(zeros, requires_grad=layer.weight.requires_grad)
    for path, chosen in spec.selections.items():
        select(model.get_submodule(path), chosen)
    widths = {path: _groups(layer) for path, layer in model.named_modules()}
    for name, own in [*model.named_parameters(), *model.named_buffers()]:
        if name in tensors:
            new = tensors[name]
            if own.shape != new.shape:
                _resize(own, new.to(own.device, own.dtype, copy=True))
            else:
                own.copy_(new)
    for path, layer in model.named_modules():
        refit(layer, widths[path])
    for literals in spec.literals:
        model = with_literals(model, literals)
    remember(model, done.then(spec))
    return model


def _resize(own: Tensor, new: Tensor) -> None:
    """Give a parameter values of another shape; it stays the same object."""
    own.grad = None
    # Whatever sums up its gradients, and lives as long as any graph or wrapper does, knows the old
    # shape; autograd forgets it when the type changes.
    own.data = new.new_empty(
        0, dtype=torch.float16 if new.dtype != torch.float16 else torch.float32
    )
    own.data = new


def select(layer: Any, chosen: list[int]) -> None:
    """Let a normalisation layer take some channels of its input."""
    kind = SELECTED.get(type(layer))
    if kind is None:
        raise CompactionError(
            f"{type(layer).__name__} cannot select channels of its input; "
            f"{', '.join(k.__name__ for k in SELECTED)} can. Compact with selection=False."
        )
    layer.__class__ = kind
    indices = torch.tensor(chosen, device=layer.weight.device)
    layer.register_buffer("selected", indices)


def _groups(layer: nn.Module) -> int:
    """Return how many rows of its weight one group of a convolution has; 0 without a weight."""
    return layer.weight.shape[0] // layer.groups if isinstance(layer, _ConvNd) else 0


def refit(layer: Any, rows: int) -> None:
    """Let what a layer says of its size agree with its weights.

    Args:
        layer: Any module.
        rows: Rows of a group, for a convolution.
    """
    if isinstance(layer, _ConvNd):
        groups = 1 if layer.groups == 1 else layer.weight.shape[0] // rows
        first, second = layer.weight.shape[0], layer.weight.shape[1] * groups
        transposed = isinstance(layer, _ConvTransposeNd)
        layer.groups = groups
        layer.in_channels, layer.out_channels = (first, second) if transposed else (second, first)
    elif isinstance(layer, _NormBase):
        if layer.weight is not None or layer.running_mean is not None:
            layer.num_features = len(layer.running_mean if layer.weight is None else layer.weight)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = layer.weight.shape[1]
    elif isinstance(layer, nn.Bilinear):
        return
    elif isinstance(getattr(layer, "weight", None), Tensor) and layer.weight.dim() == 2:
        for name, size in zip(("out", "in"), layer.weight.shape, strict=True):
            for noun in ("features", "channels"):
                if isinstance(getattr(layer, f"{name}_{noun}", None), int):
                    setattr(layer, f"{name}_{noun}", size)
    else:
        _refit_graph_layer(layer)


def _refit_graph_layer(layer: Any) -> None:
    """PyG's convolutions say how wide they are; attention reshapes by it."""
    names = {kind.__name__ for kind in type(layer).__mro__}
    if "MessagePassing" not in names:
        return
    attention = next(
        (t for n in ("att", "att_src") if (t := getattr(layer, n, None)) is not None), None
    )
    if attention is not None:
        layer.out_channels = attention.shape[-1]
        return
    for child in ("lin", "lin_l"):
        if hasattr(layer, child) and isinstance(getattr(layer, "out_channels", None), int):
            layer.out_channels = getattr(layer, child).weight.shape[0]
            if isinstance(layer.in_channels, int):
                layer.in_channels = getattr(layer, child).weight.shape[1]
