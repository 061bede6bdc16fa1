"""How weights are drawn, by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Draw = Callable[[Tensor], Any]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
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
    if name not in INITIALISERS:
        near = difflib.get_close_matches(str(name), INITIALISERS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"init={name!r}: {', '.join(INITIALISERS)} are known.{hint}")
    return INITIALISERS[name]


def initialise_(network: nn.Module, name: str) -> None:
    """Draw the weights of all linear and convolutional layers anew, in place.

    Biases become zero, except with `default`.

    Args:
        network: The network.
        name: The initialiser's name.

    Raises:
        ValueError: If the name is unknown.
    """
    draw = initialiser(name)
    for layer in network.modules():
        if not isinstance(layer, LAYERS):
            continue
        if draw is None:
            layer.reset_parameters()
            continue
        draw(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
