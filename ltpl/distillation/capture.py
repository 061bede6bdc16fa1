"""`Capture`: what a network is called with and what it gives, while somebody else's step runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Call:
    """One call of a network.

    Args:
        args: What it was called with.
        kwargs: What it was called with by name.
        versions: How often each of these tensors had been changed in place; None if not known.
        output: What it returned.
        hidden: What its layers that are listened to returned, in the order of their calls.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: list[int] | None
    output: Any
    hidden: dict[str, list[Any]]

    @property
    def is_untouched(self) -> bool:
        """Whether no input was changed in place since the call began."""
        return self.versions is None or self.versions == versions(self.args, self.kwargs)


class Capture:
    """Listens to a network; outside of `listening` it costs a look at a flag.

    Args:
        network: The network. One that is to be compiled must not have run compiled yet.
        layers: Names of layers inside whose outputs are wanted too.
    """

    def __init__(self, network: nn.Module, layers: Iterable[str] = ()):
        self.on = False
        self.calls: list[Call] = []
        self._hidden: dict[str, list[Any]] = {}
        self._versions: list[int] | None = None
        self._handles = [
            network.register_forward_pre_hook(self._begin, with_kwargs=True),
            network.register_forward_hook(self._end, with_kwargs=True),
        ]
        inside: nn.Module = getattr(network, "_orig_mod", network)
        for name in layers:
            hook = _Layer(self._hidden, name, self)
            self._handles.append(inside.get_submodule(name).register_forward_hook(hook))

    @contextlib.contextmanager
    def listening(self) -> Iterator[list[Call]]:
        """Collect the calls that happen while the block runs."""
        self.calls, self.on = [], True
        try:
            yield self.calls
        finally:
            self.on = False
            self.calls = []

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.on:
            self._hidden.clear()
            self._versions = None if torch.compiler.is_compiling() else versions(args, kwargs)

    def _end(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if self.on:
            hidden = {name: list(outputs) for name, outputs in self._hidden.items()}
            self.calls.append(Call(args, kwargs, self._versions, output, hidden))


class _Layer:
    """The hook of a layer inside."""

    def __init__(self, hidden: dict[str, list[Any]], name: str, capture: Capture):
        self.hidden = hidden
        self.name = name
        self.capture = capture

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.capture.on:
            self.hidden.setdefault(self.name, []).append(output)


def versions(*values: Any) -> list[int]:
    """Return how often each tensor in nested values has been changed in place."""
    return [t._version for t in tensors(values) if not t.is_inference()]


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and dictionaries, and in PyG's graphs."""
    leaves = [
        inside
        for leaf in tree_leaves(value)
        for inside in (leaf.to_dict().values() if hasattr(leaf, "edge_index") else [leaf])
    ]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
