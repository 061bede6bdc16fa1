"""Latency: how long networks take, side by side in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Latency:
    """Seconds of one forward pass.

    Args:
        median: Over all repeats.
        low: First quartile.
        high: Third quartile.
    """

    median: float
    low: float
    high: float


def latency(
    networks: Mapping[str, nn.Module], example: tuple[Any, ...], repeats: int = 30, warm_up: int = 3
) -> dict[str, Latency]:
    """Time networks in turn, so that what disturbs one disturbs all.

    Numbers too small to be normal make a CPU many times slower; training with a penalty leaves
    many of them in a dense network. They are flushed to zero on all sides, or a pruned network
    would look faster than it is.

    Args:
        networks: What to time, by name.
        example: What they are called with.
        repeats: Calls that count.
        warm_up: Calls that do not.

    Raises:
        ValueError: If there are too few repeats for quartiles.
    """
    if repeats < 2:
        raise ValueError(f"repeats={repeats}: at least 2.")
    times: dict[str, list[float]] = {name: [] for name in networks}
    with _denormals_flushed(True), _evaluating(networks.values()), torch.inference_mode():
        for repeat in range(warm_up + repeats):
            for name, network in networks.items():
                began = time.perf_counter()
                network(*example)
                _wait(example)
                if repeat >= warm_up:
                    times[name].append(time.perf_counter() - began)
    quartiles = {name: statistics.quantiles(found, n=4) for name, found in times.items()}
    return {name: Latency(q[1], q[0], q[2]) for name, q in quartiles.items()}


def denormals(network: nn.Module) -> int:
    """Return how many parameters are too small to be normal numbers, without being zero."""
    found = 0
    with _denormals_flushed(False):
        for parameter in network.parameters():
            if parameter.is_floating_point():
                small = parameter.detach().abs() < torch.finfo(parameter.dtype).tiny
                found += int((small & (parameter != 0)).count_nonzero())
    return found


@contextmanager
def _denormals_flushed(wanted: bool) -> Iterator[None]:
    before = not bool(torch.tensor(1e-310, dtype=torch.float64) * 1.0)
    torch.set_flush_denormal(wanted)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def _evaluating(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Put networks in evaluation mode, compiled ones as they are, and back when the block ends."""
    modes = [(m, m.training) for network in networks for m in network.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _wait(example: tuple[Any, ...]) -> None:
    if any(isinstance(x, Tensor) and x.is_cuda for x in example):
        torch.cuda.synchronize()
