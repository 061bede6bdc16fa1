"""What makes a channel worth keeping: one small function each; the highest scores stay.

A score names what it looks at by its arguments:

- `gamma`, `beta`: the scaling factors and shifts of a layer (`beta` is zeros where there is none);
  `weight` is another name of `gamma`, so that `ltpl.masks.criteria.magnitude` works here too;
- `filters`: one row a channel, the weights that make it;
- `generator`: a seeded source of random numbers; `name`: the layer's path;
- or, for scores of all layers at once: `model`, `norms`, `batches`, `loss`, and `reduce`, which
  averages a tensor over processes; such a function returns a dictionary, layer -> scores.

A function of yours is used by its dotted path, `score="mypackage.scores.mine"`, or directly.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.masks.criteria import Criterion, look_up
from ltpl.masks.errors import unknown
from ltpl.masks.norms import producers_in_order
from ltpl.masks.saliency import Loss, Reduce, alone, borrowed
from ltpl.masks.select import named_parameters
from ltpl.masks.shards import must_lie_here, whole

LAYER_ARGUMENTS = ("gamma", "weight", "beta", "filters", "generator", "name")
NETWORK_ARGUMENTS = ("model", "norms", "batches", "loss", "reduce")

Score = str | Callable[..., Any] | Criterion


def gamma(gamma: Tensor) -> Tensor:
    """Keep the channels with the largest scaling factors (Liu et al., 2017)."""
    return gamma.abs()


def l1(filters: Tensor) -> Tensor:
    """Keep the filters of largest L1 norm (Li et al., 2017)."""
    return filters.abs().sum(dim=1)


def l2(filters: Tensor) -> Tensor:
    """Keep the filters of largest L2 norm."""
    return filters.square().sum(dim=1).sqrt()


def random(gamma: Tensor, generator: torch.Generator) -> Tensor:
    """Keep a random choice: the control that every claim needs."""
    return torch.rand(gamma.shape, generator=generator)


def taylor(
    model: nn.Module,
    norms: Mapping[str, Any],
    batches: Iterable[Any],
    loss: Loss,
    reduce: Reduce = alone,
) -> dict[str, Tensor]:
    """Keep the channels whose removal would change the loss most, to first order.

    (gamma dL/dgamma + beta dL/dbeta)^2, averaged over batches: "Taylor-FO-BN" of Molchanov et al.
    (2019), equations 8 and 9.
    """
    shifts = {path: getattr(norm, "bias", None) for path, norm in norms.items()}
    pairs = {
        p: [n.weight] if shifts[p] is None else [n.weight, shifts[p]] for p, n in norms.items()
    }
    tensors = [p for pair in pairs.values() for p in pair]
    total = {path: torch.zeros_like(norm.weight) for path, norm in norms.items()}
    batches = list(batches)
    with borrowed(model, tensors):
        for batch in batches:
            found = torch.autograd.grad(loss(model, batch), tensors, materialize_grads=True)
            change = {id(p): p.detach() * g for p, g in zip(tensors, found, strict=True)}
            for path, pair in pairs.items():
                total[path] += reduce(torch.stack([change[id(p)] for p in pair]).sum(0)).square()
    return {path: scores / len(batches) for path, scores in total.items()}


SCORES: dict[str, Criterion] = {
    score.__name__: Criterion(score.__name__, score) for score in (gamma, l1, l2, taylor, random)
}


def find_score(given: Score) -> Criterion:
    """Return a score by its name in the registry, by dotted path, or from a function.

    Raises:
        ValueError: If there is no such score, or the function asks for an unknown argument.

    Example:
        >>> find_score("gamma").score(torch.tensor([-2.0, 1.0]))
        tensor([2., 1.])
    """
    return look_up("score", given, SCORES, LAYER_ARGUMENTS, NETWORK_ARGUMENTS)


def channel_scores(
    model: nn.Module,
    norms: Mapping[str, nn.Module],
    score: Score = "gamma",
    *,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    producers: Mapping[str, tuple[str, int]] | None = None,
    reduce: Reduce | None = None,
) -> dict[str, Tensor]:
    """Return one score a channel for each layer of `norms`; the model is not changed.

    Args:
        model: Any module.
        norms: Layers by path, see `scaled_norms`.
        score: A name in `SCORES`, a function, or its dotted path.
        batches: Data, for scores that look at it.
        loss: `loss(model, batch)`, for scores that follow a gradient.
        seed: Seed of random choices.
        producers: For each layer the name of the weight that makes its channels, and the dimension
            of its outputs; guessed from the order of registration if not given.
        reduce: Averages a tensor over processes, each of which has batches of its own.

    Raises:
        ValueError: If something that the score needs is missing, or it returns no finite number a
            channel.
    """
    score = find_score(score)
    data = list(batches) if batches is not None else None
    for name, value in (("batches", data), ("loss", loss)):
        if name in score.needs and not value:
            raise ValueError(f"score={score.name!r} needs {name}=...; it was not given.")
    if score.whole_network:
        must_lie_here(f"score={score.name!r}", model)
        given = {"model": model, "norms": norms, "batches": data, "loss": loss}
        given["reduce"] = reduce or alone
        found = score.score(**{name: given[name] for name in score.needs})
    else:
        rows = _filters(model, norms, producers) if "filters" in score.needs else {}
        with torch.no_grad():
            found = {p: _look(score, p, n, rows.get(p), seed) for p, n in norms.items()}
    for path, norm in norms.items():
        _must_be_finite(score, path, found.get(path), norm)
    return {path: found[path].detach() for path in norms}


def tells_apart(scores: Mapping[str, Tensor]) -> bool:
    """Whether any two channels differ: constant scaling factors, as at initialisation, do not.

    Example:
        >>> tells_apart({"bn": torch.full((4,), 0.5)})
        False
    """
    values = [part.detach().reshape(-1).cpu().double() for part in scores.values()]
    every = torch.cat(values) if values else torch.empty(0)
    return every.numel() > 1 and bool(every.min() < every.max())


def _look(
    score: Criterion, path: str, norm: nn.Module, filters: Tensor | None, seed: int
) -> Tensor:
    scale: Any = norm.weight
    shift: Any = getattr(norm, "bias", None)
    factor = whole(scale.detach())
    given = {
        "gamma": factor,
        "weight": factor,
        "beta": torch.zeros_like(factor) if shift is None else whole(shift.detach()),
        "filters": filters,
        "generator": torch.Generator().manual_seed(seed ^ zlib.crc32(path.encode())),
        "name": path,
    }
    found: Tensor = score.score(**{name: given[name] for name in score.needs})
    return found


def _filters(
    model: nn.Module,
    norms: Mapping[str, nn.Module],
    producers: Mapping[str, tuple[str, int]] | None,
) -> dict[str, Tensor]:
    parameters = named_parameters(model)
    producers = producers_in_order(model, norms) if producers is None else producers
    found = {}
    for path in norms:
        if path not in producers:
            raise ValueError(
                f"producers has no entry for {path!r}: no single weight is known to make its "
                f"channels. Name one, use score='gamma', or leave the layer out with exclude."
            )
        name, dim = producers[path]
        if name not in parameters:
            raise unknown(f"producers[{path!r}]", name, parameters)
        found[path] = whole(parameters[name].detach()).float().movedim(dim, 0).flatten(1)
    return found


def _must_be_finite(score: Criterion, path: str, found: Any, norm: nn.Module) -> None:
    factor: Any = norm.weight
    if not isinstance(found, Tensor) or found.shape != factor.shape:
        shape = tuple(found.shape) if isinstance(found, Tensor) else found
        raise ValueError(
            f"score={score.name!r}: {shape} for {path!r}; one number for each of its "
            f"{factor.numel()} channels is needed."
        )
    if bad := int((~torch.isfinite(found)).count_nonzero()):
        raise ValueError(
            f"{path!r}: {bad} scores are NaN or infinite; scores must be finite (did training "
            "diverge?)."
        )
