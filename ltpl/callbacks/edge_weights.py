"""Learned weights of edges, in any network of PyG's layers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

CURE = "Use criterion='random', 'jaccard' or 'degree', which only leave edges out."


class LearnedEdges:
    """One weight for each undirected edge, one at first, with an Adam of its own (UGS).

    Edges that are not kept weigh exactly zero and stay there. No weight falls below zero, where
    degrees would have no root to normalise by.

    Args:
        keep: Which edges are kept.
        lr: Learning rate.
        l1: Strength of the penalty, whose subgradient `l1 * sign(weight)` joins the gradient.
        state: What `state_dict` gave.
    """

    def __init__(self, keep: Tensor, lr: float, l1: float, state: dict[str, Any] | None = None):
        values = keep.float() if state is None else state["values"].to(keep.device, copy=True)
        self.values = values.requires_grad_()
        self.l1 = l1
        self._reached = False
        self.optimizer = torch.optim.Adam([self.values], lr=lr)
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])

    def of(self, place: Tensor) -> Tensor:
        """Return the weight of each edge of a graph; self-loops, which come last, weigh one."""
        proper = place[place >= 0]
        weight = self.values.index_select(0, proper)
        loops = len(place) - len(proper)
        return torch.cat([weight, weight.new_ones(loops)]) if loops else weight

    @torch.no_grad()
    def step(self, trainer: Any) -> None:
        """Take a step with the gradient that is there; after it, there is none.

        Raises:
            ValueError: If there has never been one.
        """
        gradient = self.values.grad
        if gradient is None:
            if self._reached:  # the step of another optimiser has used it
                return
            raise ValueError(
                "EdgePruning: no gradient reaches the weights of the edges, so criterion='learned' "
                "has nothing to learn: the network has no layers of PyG and does not use the "
                f"graph's edge_weight. {CURE}"
            )
        self._reached = True
        if (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:
            gradient.div_(scaler.get_scale())
        if trainer.world_size > 1:
            gradient = self.values.grad = trainer.strategy.reduce(gradient, reduce_op="mean")
        if scaler is None or gradient.isfinite().all():  # or the step of the network is left out
            gradient.add_(self.values.sign(), alpha=self.l1)
            self.optimizer.step()
            self.values.clamp_(min=0)
        self.values.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return weights and slots."""
        return {"values": self.values.detach(), "optimizer": self.optimizer.state_dict()}


class WeighedLayers:
    """The message-passing layers of a module, which can be called with weights on the edges.

    Layers that take an `edge_weight` get it, times the one that they are called with. In others
    the messages are multiplied, as PyG's explainers do it. A module without such layers finds the
    weights in the graph's `edge_weight`.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module):
        self._layers: list[tuple[str, Any, inspect.Signature]] = [
            (name, layer, inspect.signature(layer.forward))
            for name, layer in message_passing(module)
        ]

    def must_weigh(self) -> None:
        """Refuse layers that can do neither.

        Raises:
            ValueError: If there is one.
        """
        for name, layer, signature in self._layers:
            takes, why = signature.parameters, ""
            if "edge_index" not in takes:
                why = "its forward takes no edge_index"
            elif "edge_weight" not in takes and layer.explain is False:
                why = (
                    "it takes no edge_weight, and its messages are not to be changed: explain=False"
                )
            elif "edge_weight" not in takes and layer.decomposed_layers > 1:
                why = f"it takes no edge_weight, and decomposed_layers={layer.decomposed_layers}"
            if why:
                raise ValueError(
                    f"EdgePruning: criterion='learned' cannot weigh the edges of {name}, a "
                    f"{type(layer).__name__}: {why}. {CURE}"
                )

    @contextmanager
    def weighed(self, graph: Any, weight: Tensor) -> Iterator[None]:
        """Weigh the edges while the block runs.

        Args:
            graph: The graph that the module is going to be called with.
            weight: One for each of its edges.
        """
        with ExitStack() as after:
            for name, layer, signature in self._layers:
                given = partial(_give, name, signature, weight, graph.edge_index)
                hook = layer.register_forward_pre_hook(given, with_kwargs=True)
                after.callback(hook.remove)
                if "edge_weight" not in signature.parameters:
                    after.enter_context(_explained(layer, weight, graph.edge_index))
            if not self._layers:
                theirs = graph.edge_weight if "edge_weight" in graph else None
                graph.edge_weight = weight if theirs is None else weight * theirs
            yield


def message_passing(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the layers of PyG inside a module, by path."""
    return [
        (name, layer)
        for name, layer in module.named_modules()
        if callable(getattr(layer, "propagate", None)) and hasattr(layer, "explain_message")
    ]


def must_not_cache(module: nn.Module) -> None:
    """Refuse layers that keep the first graph whatever happens to its edges.

    Raises:
        ValueError: If there is one.
    """
    for name, layer in message_passing(module):
        if getattr(layer, "cached", False):
            raise ValueError(
                f"EdgePruning: {name} is a {type(layer).__name__}(cached=True), which goes on with "
                "the first graph that it sees when edges go; build it with cached=False."
            )


def _give(
    name: str,
    signature: inspect.Signature,
    weight: Tensor,
    edge_index: Tensor,
    layer: nn.Module,
    args: Any,
    kwargs: Any,
) -> tuple[Any, Any]:
    """Return the arguments of a layer, with the weights if it takes them."""
    bound = signature.bind(*args, **kwargs)
    edges = bound.arguments["edge_index"]
    if edges is not edge_index and not (
        isinstance(edges, Tensor)
        and edges.layout == torch.strided
        and torch.equal(edges, edge_index)
    ):
        raise ValueError(
            f"EdgePruning: {name} is called with other edges than those of the graph, and "
            f"criterion='learned' weighs only these. {CURE}"
        )
    if "edge_weight" in signature.parameters:
        ours, theirs = _as_weights(layer, weight), bound.arguments.get("edge_weight")
        bound.arguments["edge_weight"] = ours if theirs is None else ours * theirs
    return bound.args, bound.kwargs


@contextmanager
def _explained(layer: Any, weight: Tensor, edge_index: Tensor) -> Iterator[None]:
    before = layer.explain, layer._edge_mask, layer._loop_mask, layer._apply_sigmoid
    layer.explain = True
    layer._edge_mask, layer._apply_sigmoid = _as_weights(layer, weight), False
    layer._loop_mask = edge_index[0] != edge_index[1]
    try:
        yield
    finally:
        layer.explain, layer._edge_mask, layer._loop_mask, layer._apply_sigmoid = before


def _as_weights(layer: nn.Module, weight: Tensor) -> Tensor:
    """Return the weights of edges in the type that the layer computes in."""
    return weight.to(next((p.dtype for p in layer.parameters()), weight.dtype))
