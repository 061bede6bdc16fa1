"""How weights are drawn, by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import is_lazy

from ltpl.models.options import above_zero, one_of

Draw = Callable[[Tensor], Any]
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
NO_LAYERS = (*NORMS, nn.Embedding, nn.EmbeddingBag)
# None: as the layer draws itself
INITIALISERS: dict[str, Draw | None] = {
    "default": None,
    "glorot_normal": nn.init.xavier_normal_,
    "kaiming_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "orthogonal": nn.init.orthogonal_,
}


def initialiser(name: str) -> Draw | None:
    """Return what draws a weight in place; nothing for `default`.

    Args:
        name: `default` (as the layer draws itself), `glorot_normal` (standard deviation
            sqrt(2 / (inputs + outputs)); Glorot and Bengio, 2010), `kaiming_normal`
            (sqrt(2 / inputs); He et al., 2015) or `orthogonal` (Saxe et al., 2014).

    Raises:
        ValueError: If the name is unknown.
    """
    return INITIALISERS[one_of("init", name, INITIALISERS)]


def scale(gamma: float | str) -> Draw:
    """Return what sets the scales of BatchNorm in place.

    Args:
        gamma: Their start: a number above 0 (1 as usual; 0.5 in Liu et al., 2017, network
            slimming) or `uniform`, for draws between 0 and 1.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(gamma, str) and gamma == "uniform":
        return nn.init.uniform_
    start = above_zero("gamma", gamma, "a number above 0 or 'uniform'")  # type: ignore[arg-type]
    return lambda weight: nn.init.constant_(weight, start)


def initialise_(network: nn.Module, init: str, gamma: float | str = 1.0) -> None:
    """Draw the weights of all layers anew, in place, and start normalisation afresh.

    A layer is what holds a matrix or kernel called `weight`; embeddings are left alone. Biases
    become zero, except with `default`. Scales are drawn last, so weights do not depend on `gamma`.

    Args:
        network: The network.
        init: The initialiser's name.
        gamma: Start of BatchNorm's scales: a number above 0, or `uniform` for draws in [0, 1).

    Raises:
        ValueError: If the name is unknown, or `gamma` is neither.
    """
    draw, rescale = initialiser(init), scale(gamma)
    for layer in network.modules():
        if not _is_layer(layer):
            continue
        if draw is None:
            layer.reset_parameters()  # type: ignore[operator]
            continue
        draw(layer.weight)  # type: ignore[arg-type]
        bias = getattr(layer, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
    for norm in network.modules():
        if isinstance(norm, NORMS):
            norm.reset_parameters()
        if isinstance(norm, _BatchNorm) and norm.affine:
            rescale(norm.weight)


@contextlib.contextmanager
def undrawn(network: nn.Module) -> Iterator[None]:
    """Build all layers of a network without drawing them; to be drawn, once, afterwards.

    Args:
        network: Where the layers are put. All of its values are undefined at the end.

    Example:
        >>> network = nn.Sequential()
        >>> with undrawn(network):
        ...     network.append(nn.Linear(4, 2))
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
        )
        >>> initialise_(network, "default")
    """
    device = torch.get_default_device()
    with torch.device("meta"):
        yield
    network.to_empty(device=device)


def _is_layer(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if isinstance(module, NO_LAYERS) or not isinstance(weight, nn.Parameter) or is_lazy(weight):
        return False
    return weight.dim() >= 2
