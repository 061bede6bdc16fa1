"""`redraw`: the new weights of a small network that is trained from scratch."""

from __future__ import annotations

from torch import nn


def redraw(network: nn.Module) -> None:
    """Draw all weights of a network anew, each layer as it does by itself."""
    own = getattr(network, "reset_parameters", None)
    if callable(own):
        own()
        return
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
