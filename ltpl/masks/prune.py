"""`prune`: a model in, a mask out. The model is not changed."""

from __future__ import annotations

import dataclasses
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.masks.allocate import allocate, check_options
from ltpl.masks.criteria import Criterion, find_criterion
from ltpl.masks.errors import check_seed, check_types
from ltpl.masks.mask import Mask
from ltpl.masks.saliency import Loss, Reduce, alone, only_kept
from ltpl.masks.select import layer_rates, named_parameters, normalised_directions, prunable
from ltpl.masks.shards import must_lie_here, whole
from ltpl.masks.threshold import Scores


def prune(
    model: nn.Module,
    amount: float | None = None,
    *,
    of: str = "remaining",
    scope: str = "global",
    criterion: str | Callable[..., Any] | Criterion = "magnitude",
    rates: Mapping[str, float] | None = None,
    mask: Mask | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    frozen: bool = False,
    min_keep: int = 1,
    init: Mapping[str, Tensor] | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    reduce: Reduce | None = None,
) -> Mask:
    """Return the mask that keeps the best weights of `model`; `mask.apply_(model)` prunes it.

    Args:
        model: Any module.
        amount: Share to prune, 0 <= amount < 1. Left out with an N:M scope.
        of: What `amount` is a share of: the `remaining` weights, or `all`.
        scope: Which weights compete: `global`, `layer`, `erk` or `N:M`, e.g. `2:4`.
        criterion: A name in `ltpl.masks.CRITERIA`, a function, or its dotted path.
        rates: Factors on the amount: `{"output": 0.5}` prunes the output layer at half the rate,
            `{"conv": 0}` exempts. Keys: `output`, `linear`, `conv`, a glob or a name.
        mask: What was kept until now; nothing pruned comes back. Parameters in it that are not
            chosen (frozen by now, say) stay as they are in it.
        include: What may be pruned, see `prunable`.
        exclude: What may not.
        frozen: Whether parameters with `requires_grad=False` may be pruned.
        min_keep: At least so many weights of each parameter stay.
        init: Values before training, by name, for criteria that look at them.
        batches: Data, for criteria that look at it.
        loss: `loss(model, batch)`, for criteria that follow a gradient.
        seed: Seed of random choices.
        reduce: Averages a tensor over processes, for criteria that follow a gradient, where each
            has batches of its own.

    Raises:
        ValueError: If an option is out of range, a name is unknown, shapes differ, scores are not
            finite, or something that the criterion needs is missing.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> mask = prune(net, 0.25)
        >>> mask.kept, mask.total
        (30, 40)
        >>> prune(net, 0.2, mask=mask).kept
        24
    """
    check_types(prune, locals())
    check_options(amount, of, scope, min_keep)
    check_seed("seed", seed)
    chosen = prunable(model, include, exclude, frozen)
    if mask is not None:
        mask.must_fit(named_parameters(model))
    left_alone = {n: keep for n, keep in (mask or {}).items() if n not in chosen}
    score = find_criterion(criterion)
    data = list(batches) if batches is not None else None
    _must_have(score, init=init, batches=data, loss=loss)
    factors = layer_rates(model, chosen, rates)
    shapes = {name: tuple(p.shape) for name, p in chosen.items()}
    kept = mask
    before = {name: p.numel() for name, p in chosen.items()}
    before |= {row.name: row.kept for row in mask.table()} if mask is not None else {}
    rounds = 1 if amount is None else score.rounds
    with torch.no_grad():
        for done in range(1, rounds + 1):
            layers = _scores(score, model, chosen, kept, init, data, loss, seed, reduce)
            way = done / rounds
            flat = allocate(layers, shapes, amount, of, scope, factors, min_keep, way, before)
            found = {name: keep.view(shapes[name]) for name, keep in flat.items()}
            kept = Mask({**left_alone, **found})
    assert kept is not None
    _warn_of_empty(kept)
    return kept


def _warn_of_empty(mask: Mask) -> None:
    if empty := [row.name for row in mask.table() if not row.kept]:
        warnings.warn(
            f"No weight is left in {', '.join(empty)}: nothing passes there. Prune less, or raise "
            "min_keep.",
            stacklevel=3,
        )


def _must_have(criterion: Criterion, **given: Any) -> None:
    for name, value in given.items():
        if name in criterion.needs and not value:
            raise ValueError(f"criterion={criterion.name!r} needs {name}=...; it was not given.")


def _scores(
    criterion: Criterion,
    model: nn.Module,
    chosen: Mapping[str, nn.Parameter],
    mask: Mask | None,
    init: Mapping[str, Tensor] | None,
    batches: list[Any] | None,
    loss: Loss | None,
    seed: int,
    reduce: Reduce | None,
) -> dict[str, Scores]:
    if criterion.whole_network:
        must_lie_here(f"criterion={criterion.name!r}", model)
        given = {"model": model, "parameters": chosen, "batches": batches, "loss": loss}
        given["reduce"] = reduce or alone
        with only_kept(named_parameters(model), mask or {}), torch.enable_grad():
            found = criterion.score(**{name: given[name] for name in criterion.needs})
        inputs: dict[str, tuple[Tensor, ...]] = {name: (found[name],) for name in chosen}
    else:
        inputs = {
            name: _look(criterion, name, whole(weight.detach()), init, seed)
            for name, weight in chosen.items()
        }
    for name, tensors in inputs.items():
        for tensor in tensors:
            if tensor.shape != chosen[name].shape:
                raise ValueError(
                    f"criterion={criterion.name!r}: for {name!r} it sees shape "
                    f"{tuple(tensor.shape)}, but the parameter has {tuple(chosen[name].shape)}."
                )
    ranked = [tensor.dtype for tensors in inputs.values() for tensor in tensors]
    dtype = torch.float64 if all(x == torch.float64 for x in ranked) else torch.float32
    scores = {
        name: Scores(
            name,
            tuple(tensor.reshape(-1) for tensor in tensors),
            criterion.score if _in_pieces(criterion, chosen[name]) else torch.positive,
            _flat(mask, name, tensors[0].device),
            dtype,
        )
        for name, tensors in inputs.items()
    }
    for name, dim in normalised_directions(model).items():
        if name in scores:
            scores[name] = _with_live_rows(scores[name], chosen[name].shape, dim)
    return scores


def _with_live_rows(layer: Scores, shape: torch.Size, dim: int) -> Scores:
    """Let the best of each row win: weight normalisation divides by the norm of a row."""
    scores = layer.at(slice(None)).view(shape).movedim(dim, 0).flatten(1)
    best = scores.argmax(dim=1, keepdim=True)
    ranks = torch.finfo(torch.float32)
    scores = scores.clamp(min=ranks.min).scatter(1, best, ranks.max)
    rows = [shape[dim], *(size for i, size in enumerate(shape) if i != dim)]
    back = scores.view(rows).movedim(0, dim).reshape(-1)
    return dataclasses.replace(layer, inputs=(back,), score=torch.positive)


def _look(
    criterion: Criterion,
    name: str,
    weight: Tensor,
    init: Mapping[str, Tensor] | None,
    seed: int,
) -> tuple[Tensor, ...]:
    """Return what is ranked: the finished scores, or what piecewise scores are computed from."""
    given: dict[str, Any] = {"name": name, "weight": weight}
    if "init" in criterion.needs and init is not None:
        if name not in init:
            raise ValueError(f"criterion={criterion.name!r}: init has no value for {name!r}.")
        given["init"] = init[name].detach().to(weight.device)
    if "generator" in criterion.needs:
        given["generator"] = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
    looked_at = {need: given[need] for need in criterion.needs}
    if _in_pieces(criterion, weight):
        return tuple(looked_at.values())
    return (criterion.score(**looked_at),)


def _in_pieces(criterion: Criterion, weight: Tensor) -> bool:
    """Whether scores are computed piece by piece; complex weights turn into real scores first."""
    return criterion.elementwise and not weight.is_complex()


def _flat(mask: Mask | None, name: str, device: torch.device) -> Tensor | None:
    return mask[name].to(device).reshape(-1) if mask is not None and name in mask else None
