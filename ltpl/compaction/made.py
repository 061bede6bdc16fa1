"""A network made anew with the arguments that a file states, and never a boundless one."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook


class TooLargeError(ValueError):
    """A network has more weights than it may."""


def made(
    kind: type[nn.Module], arguments: dict[str, Any], weights: int, parameters: int
) -> nn.Module:
    """Return a new network, tried without memory for its weights first.

    Args:
        kind: Its class.
        arguments: What it is called with.
        weights: How many weights it may have.
        parameters: In how many tensors.

    Raises:
        TooLargeError: If it has more.
    """
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"), _counting(weights, parameters) as too_large:
            kind(**arguments)
    if too_large:
        raise too_large[0]
    with _counting(weights, parameters):
        return kind(**arguments)


@contextlib.contextmanager
def _counting(most: int, parameters: int) -> Iterator[list[TooLargeError]]:
    """Stop a network that grows too large; what stopped it is in the list."""
    weights = tensors = 0
    found: list[TooLargeError] = []

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal weights, tensors
        weights += 0 if nn.parameter.is_lazy(parameter) else parameter.numel()
        tensors += 1
        if weights > most or tensors > parameters:
            too_many = f"it would have more than {most:,} weights in {parameters:,} parameters"
            found.append(TooLargeError(too_many))
            raise found[0]

    handle = register_module_parameter_registration_hook(count)
    try:
        yield found
    finally:
        handle.remove()
