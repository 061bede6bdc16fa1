"""Allocation: from scores to an exact mask. Which weights compete, and how many of them stay."""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ltpl.masks.errors import check_types, unknown
from ltpl.masks.threshold import Scores, keep_highest

SCOPES = ("global", "layer", "erk")
UNITS = ("remaining", "all")
_N_OF_M = re.compile(r"([1-9]\d*):([1-9]\d*)")


def allocate(
    scores: Mapping[str, Scores],
    shapes: Mapping[str, Sequence[int]],
    amount: float | None,
    of: str = "remaining",
    scope: str = "global",
    rates: Mapping[str, float] | None = None,
    min_keep: int = 1,
    way: float = 1.0,
    before: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Return, for each parameter, flat booleans that keep exactly the number asked for.

    Numbers to prune are rounded to the nearest integer, once for each group of parameters that are
    ranked together; of equal scores the first in order of position stays.

    Args:
        scores: The scores, by parameter.
        shapes: The shapes, by parameter.
        amount: Share to prune, 0 <= amount < 1; None for an N:M scope, which fixes it.
        of: `remaining`: of the weights that still live. `all`: of all weights, so that afterwards
            this share is pruned, whatever was pruned before.
        scope: `global` ranks all parameters together, `layer` each on its own, `erk` each on its
            own with shares by Erdos-Renyi-Kernel (Evci et al., 2020), `N:M` keeps N of M
            neighbours along the input dimension.
        rates: A factor on the amount for each parameter; 0 exempts it. Under `global` only
            parameters of equal rate compete.
        min_keep: At least so many weights of each parameter stay; others go instead, so that the
            total is as asked.
        way: How far to go from the density before to the one asked for, in geometric steps; an
            iterated criterion arrives at 1.
        before: How many weights lived before the first step, by parameter; now, if not given.

    Raises:
        ValueError: If an option is out of range or the numbers cannot be met.
    """
    check_types(allocate, locals())
    rates = dict(rates or dict.fromkeys(scores, 1.0))
    before = before or {name: layer.live for name, layer in scores.items()}
    n_of_m = check_options(amount, of, scope, min_keep)
    for option, given in (("shapes", shapes), ("rates", rates), ("before", before)):
        if lost := [name for name in scores if name not in given]:
            raise ValueError(f"{option}: it has nothing for {', '.join(lost)}.")
    if not 0 < way <= 1:
        raise ValueError(f"way={way}: 0 < way <= 1.")
    held: list[str] = []
    open_names = [name for name in scores if rates[name] > 0]
    kept = {n: _everything(s) for n, s in scores.items() if n not in open_names}
    if n_of_m:
        _only_exempt(rates, scope)
        kept |= _keep_n_of_m(scores, shapes, open_names, *n_of_m)
    elif amount is not None and scope == "global":
        for names in _by_rate(open_names, rates):
            group = [scores[name] for name in names]
            keep = _target(group, amount * rates[names[0]], of, before, way)
            masks, short = _keep_with_floor(group, keep, min_keep)
            kept |= dict(zip(names, masks, strict=True))
            held += short
    elif amount is not None:
        layers = [scores[name] for name in open_names]
        if scope == "layer":
            keeps = [_target([x], amount * rates[x.name], of, before, way) for x in layers]
        else:
            _only_exempt(rates, scope)
            keep = _target(layers, amount, of, before, way)
            keeps = _erk(layers, [shapes[n] for n in open_names], keep)
        keeps, held = _raise_to_floor(layers, keeps, min_keep, even_out=way == 1)
        for layer, keep in zip(layers, keeps, strict=True):
            kept[layer.name] = keep_highest([layer], keep)[0]
    if held and way == 1:
        _warn_of_floor(held, min_keep)
    return {name: kept[name] for name in scores}


def check_options(
    amount: float | None, of: str, scope: str, min_keep: int
) -> tuple[int, int] | None:
    """Raise a `ValueError` for an option out of range; return (N, M) for an N:M scope."""
    if of not in UNITS:
        raise unknown("of", of, UNITS)
    if min_keep < 0:
        raise ValueError(f"min_keep={min_keep}: at least 0.")
    if found := _N_OF_M.fullmatch(scope):
        n, m = int(found[1]), int(found[2])
        if n >= m:
            raise ValueError(f"scope={scope!r}: N:M keeps N of M weights, with N < M.")
        if amount is not None:
            raise ValueError(
                f"amount={amount} with scope={scope!r}: an N:M scope fixes the share itself; "
                "leave amount out."
            )
        return n, m
    if scope not in SCOPES:
        raise unknown("scope", scope, [*SCOPES, "2:4"])
    if amount is None or not 0 <= amount < 1:
        raise ValueError(f"amount={amount}: a share to prune, 0 <= amount < 1.")
    return None


def _everything(layer: Scores) -> Tensor:
    if layer.alive is not None:
        return layer.alive.clone()
    return torch.ones(layer.total, dtype=torch.bool, device=layer.inputs[0].device)


def _only_exempt(rates: Mapping[str, float], scope: str) -> None:
    for name, rate in rates.items():
        if rate not in (0.0, 1.0):
            raise ValueError(
                f"rate {rate} for {name!r} with scope={scope!r}: this scope sets each layer's "
                "share itself; rates can only exempt (0)."
            )


def _by_rate(names: Sequence[str], rates: Mapping[str, float]) -> list[list[str]]:
    groups = defaultdict(list)
    for name in names:
        groups[rates[name]].append(name)
    return list(groups.values())


def _target(
    layers: Sequence[Scores], amount: float, of: str, before: Mapping[str, int], way: float
) -> int:
    if amount >= 1:
        raise ValueError(
            f"amount times rate is {amount:g} for {layers[0].name!r}: it must stay below 1."
        )
    live = sum(before[layer.name] for layer in layers)
    if of == "remaining":
        goal = live - round(amount * live)
    else:
        total = sum(layer.total for layer in layers)
        goal = min(live, total - round(amount * total))
    return goal if way == 1 or not live else round(live * (max(goal, 1) / live) ** way)


def _floors(layers: Sequence[Scores], keep: int, min_keep: int) -> list[int]:
    floors = [min(min_keep, layer.live) for layer in layers]
    if sum(floors) > keep:
        raise ValueError(
            f"{keep} weights shall stay in {len(layers)} parameters, but min_keep={min_keep} "
            f"already keeps {sum(floors)}: lower amount or min_keep."
        )
    return floors


def _warn_of_floor(names: Sequence[str], min_keep: int) -> None:
    warnings.warn(
        f"min_keep={min_keep} holds weights back in {', '.join(names)}; as many others were "
        "pruned instead.",
        stacklevel=4,
    )


def _keep_with_floor(
    layers: Sequence[Scores], keep: int, min_keep: int
) -> tuple[list[Tensor], list[str]]:
    """Return the masks, and the names of the parameters that only the floor kept."""
    floors = _floors(layers, keep, min_keep)
    held: dict[int, Tensor] = {}
    while True:
        free = [i for i in range(len(layers)) if i not in held]
        left = keep - sum(floors[i] for i in held)
        masks = dict(zip(free, keep_highest([layers[i] for i in free], left), strict=True))
        short = [i for i in free if int(masks[i].count_nonzero()) < floors[i]]
        if not short:
            break
        held |= {i: keep_highest([layers[i]], floors[i])[0] for i in short}
    every = [held[i] if i in held else masks[i] for i in range(len(layers))]
    return every, [layers[i].name for i in sorted(held)]


def _raise_to_floor(
    layers: Sequence[Scores], keeps: list[int], min_keep: int, even_out: bool
) -> tuple[list[int], list[str]]:
    """Raise what lies below the floor and take as many from the others, by their slack.

    Steps on the way (not `even_out`) take nothing: what they took could not come back later.
    """
    floors = _floors(layers, sum(keeps), min_keep)
    short = [i for i, keep in enumerate(keeps) if keep < floors[i]]
    missing = sum(floors[i] - keeps[i] for i in short) if even_out else 0
    slack = [max(0, keep - floor) for keep, floor in zip(keeps, floors, strict=True)]
    taken = _share_out(missing, slack, slack)
    raised = [max(k, f) - t for k, f, t in zip(keeps, floors, taken, strict=True)]
    return raised, [layers[i].name for i in short]


def _share_out(count: int, weights: Sequence[float], limits: Sequence[int]) -> list[int]:
    """Split `count` in proportion to `weights`, exactly, none above its limit."""
    shares = [0] * len(weights)
    while left := count - sum(shares):
        room = [i for i, limit in enumerate(limits) if shares[i] < limit and weights[i] > 0]
        whole = sum(weights[i] for i in room)
        parts = {i: min(limits[i] - shares[i], left * weights[i] / whole) for i in room}
        for i, part in parts.items():
            shares[i] += math.floor(part)
        rest = count - sum(shares)
        by_remainder = sorted(room, key=lambda i: (math.floor(parts[i]) - parts[i], i))
        for i in by_remainder[:rest]:
            shares[i] += int(shares[i] < limits[i])
    return shares


def _erk(layers: Sequence[Scores], shapes: Sequence[Sequence[int]], keep: int) -> list[int]:
    """Split `keep` by (n_in + n_out + kernel sides) / (n_in n_out kernel), full layers capped."""
    weights = [sum(s) / math.prod(s) * x.total for s, x in zip(shapes, layers, strict=True)]
    return _share_out(keep, weights, [layer.live for layer in layers])


def _keep_n_of_m(
    scores: Mapping[str, Scores],
    shapes: Mapping[str, Sequence[int]],
    names: Sequence[str],
    n: int,
    m: int,
) -> dict[str, Tensor]:
    fits = [name for name in names if shapes[name][1] % m == 0]
    if odd := [f"{name} ({shapes[name][1]} inputs)" for name in names if name not in fits]:
        warnings.warn(
            f"{n}:{m} leaves {', '.join(odd)} as they are: the inputs do not divide by {m}.",
            stacklevel=4,
        )
    if not fits:
        raise ValueError(f"scope='{n}:{m}': no parameter has inputs that divide by {m}.")
    kept = {name: _everything(scores[name]) for name in names if name not in fits}
    for name in fits:
        kept[name] = _n_of_m(scores[name], shapes[name], n, m)
    return kept


def _n_of_m(layer: Scores, shape: Sequence[int], n: int, m: int) -> Tensor:
    rows = math.prod(shape[1:])
    step = max(1, (1 << 20) // rows) * rows
    keep = torch.empty(layer.total, dtype=torch.bool, device=layer.inputs[0].device)
    for start in range(0, layer.total, step):
        where = slice(start, min(start + step, layer.total))
        inputs = layer.at(where).view(-1, *shape[1:]).movedim(1, -1)
        grouped = inputs.reshape(*inputs.shape[:-1], -1, m)
        order = grouped.sort(dim=-1, descending=True, stable=True).indices
        best = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., :n], True)
        keep[where] = best.flatten(-2).movedim(-1, 1).reshape(-1)
    return keep if layer.alive is None else keep & layer.alive
