"""Where a network is: in the LightningModule, and in averaged copies of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ltpl.callbacks.averages import averaged_copies
from ltpl.callbacks.network import Network, uncompiled


def place_at(root: nn.Module, path: str) -> Network:
    """Return the network at a path; what is compiled, without its wrapper."""
    module = root.get_submodule(path)
    return Network(path, uncompiled(module), ())


def places_of(pl_module: Any, path: str) -> list[tuple[nn.Module, Network]]:
    """Return the network in the module and in all averages, each with what it is inside of."""
    trainer = getattr(pl_module, "_trainer", None)
    averages = [] if trainer is None else list(averages_of(trainer, pl_module, path))
    return [(pl_module, place_at(pl_module, path)), *averages]


def averages_of(trainer: Any, pl_module: Any, path: str) -> Iterator[tuple[nn.Module, Network]]:
    """Yield averaged copies, and the network inside.

    Raises:
        ValueError: If there is an average of a part of the network.
    """
    for copy, original, _ in averaged_copies(trainer, pl_module):
        if f"{path}.".startswith(f"{original}.".lstrip(".")):
            yield copy, place_at(copy, path.removeprefix(original).removeprefix("."))
        elif f"{original}.".startswith(f"{path}.".lstrip(".")):
            raise ValueError(
                f"CompactAfterPruning: there is an average of {original} alone, which cannot "
                f"follow; average {path or 'the whole module'} instead."
            )
