"""Criteria: what makes a weight worth keeping. One small function each; the highest scores stay.

A criterion names what it looks at by its arguments:

- `weight`: the trained values; `init`: the values before training (Zhou et al., 2019);
- `generator`: a seeded source of random numbers; `name`: the parameter's name;
- or, for scores of the whole network at once: `model`, `parameters`, `batches`, `loss`, and
  `reduce`, which averages a tensor over processes, each of which sees batches of its own.

A function of yours is used by its dotted path, `criterion="mypackage.scores.mine"`, or directly.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltpl.masks import saliency
from ltpl.masks.errors import check_types, unknown

PARAMETER_ARGUMENTS = ("weight", "init", "generator", "name")
NETWORK_ARGUMENTS = ("model", "parameters", "batches", "loss", "reduce")


@dataclass(frozen=True)
class Criterion:
    """A score with what it needs.

    Args:
        name: What the user calls it.
        score: The function. Higher scores are kept.
        elementwise: Whether it may be computed piece by piece, each weight on its own.
        rounds: How often scoring and pruning are repeated on the way to the target.
    """

    name: str
    score: Callable[..., Any]
    elementwise: bool = False
    rounds: int = 1

    def __post_init__(self) -> None:
        check_types(Criterion, vars(self))

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the arguments that have no default of their own, and of our `reduce`."""
        return _arguments(self.score)

    @property
    def whole_network(self) -> bool:
        """Whether it scores all parameters in one call."""
        return "model" in self.needs


@functools.lru_cache
def _arguments(score: Callable[..., Any]) -> tuple[str, ...]:
    arguments = inspect.signature(score).parameters.values()
    given = {id(inspect.Parameter.empty), id(saliency.alone)}
    return tuple(a.name for a in arguments if id(a.default) in given)


def magnitude(weight: Tensor) -> Tensor:
    """Large final: keep the largest trained weights."""
    return weight.abs()


def small_final(weight: Tensor) -> Tensor:
    """Keep the smallest trained weights."""
    return -weight.abs()


def large_init(init: Tensor) -> Tensor:
    """Keep the weights that started large."""
    return init.abs()


def small_init(init: Tensor) -> Tensor:
    """Keep the weights that started small."""
    return -init.abs()


def both_large(weight: Tensor, init: Tensor) -> Tensor:
    """Keep what is large before and after, each in units of its mean: min(a |final|, |init|)."""
    return torch.minimum(*_in_units_of_mean(weight, init))


def both_small(weight: Tensor, init: Tensor) -> Tensor:
    """Keep what is small before and after, each in units of its mean: -max(a |final|, |init|)."""
    return -torch.maximum(*_in_units_of_mean(weight, init))


def magnitude_increase(weight: Tensor, init: Tensor) -> Tensor:
    """Keep what grew the most: |final| - |init|."""
    return weight.abs() - init.abs()


def movement(weight: Tensor, init: Tensor) -> Tensor:
    """Keep what moved the furthest: |final - init|."""
    return (weight - init).abs()


def random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Keep a random choice: the control that every claim needs."""
    return torch.rand(weight.shape, generator=generator).to(weight.device)


def _in_units_of_mean(weight: Tensor, init: Tensor) -> tuple[Tensor, Tensor]:
    tiny = torch.finfo(torch.float32).tiny
    final, first = weight.float().abs(), init.float().abs()
    return final / final.mean().clamp_min(tiny), first / first.mean().clamp_min(tiny)


def _if_sign_kept(criterion: Criterion, weight: Tensor, init: Tensor) -> Tensor:
    """Rank weights whose sign changed in training below all others."""
    values = {"weight": weight, "init": init}
    scores: Tensor = criterion.score(**{name: values[name] for name in criterion.needs})
    changed = (weight.sign() != init.sign()) & scores.isfinite()  # what diverged shall be seen
    return scores.masked_fill(changed, torch.finfo(torch.float32).min)


def _same_sign(criterion: Criterion) -> Criterion:
    score = functools.partial(_if_sign_kept, criterion)
    return Criterion(f"{criterion.name}_same_sign", score, criterion.elementwise)


_BY_WEIGHT = [
    *(
        Criterion(score.__name__, score, elementwise=True)
        for score in (magnitude, small_final, large_init, small_init, magnitude_increase, movement)
    ),
    Criterion("large_final", magnitude, elementwise=True),
    Criterion("both_large", both_large),
    Criterion("both_small", both_small),
]

CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        *_BY_WEIGHT,
        *map(_same_sign, _BY_WEIGHT),
        Criterion("random", random),
        Criterion("snip", saliency.snip),
        Criterion("grasp", saliency.grasp),
        Criterion("synflow", saliency.synflow, rounds=100),
    )
}


def find_criterion(given: str | Callable[..., Any] | Criterion) -> Criterion:
    """Return a criterion by its name in the registry, by dotted path, or from a function.

    Raises:
        ValueError: If there is no such criterion, or the function asks for an unknown argument.

    Example:
        >>> find_criterion("magnitude").score(torch.tensor([-2.0, 1.0]))
        tensor([2., 1.])
    """
    return look_up("criterion", given, CRITERIA, PARAMETER_ARGUMENTS, NETWORK_ARGUMENTS)


def look_up(
    noun: str,
    given: str | Callable[..., Any] | Criterion,
    registry: Mapping[str, Criterion],
    own: Sequence[str],
    network: Sequence[str],
) -> Criterion:
    """Return what is registered under a name, lies at a dotted path, or is a function itself.

    Args:
        noun: What it is, for messages.
        given: The name, path or function.
        registry: What is known by name.
        own: The arguments that a function may take.
        network: Those of a function that looks at the whole network.

    Raises:
        ValueError: If there is nothing, or the function asks for an unknown argument.
    """
    if isinstance(given, Criterion):
        return given
    if callable(given):
        found = Criterion(getattr(given, "__name__", repr(given)), given)
    elif given in registry:
        return registry[given]
    else:
        module, _, attribute = given.rpartition(".")
        if not module:
            raise unknown(noun, given, registry)
        try:
            score = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, TypeError) as error:
            raise ValueError(f"{noun}={given!r} cannot be imported: {error}.") from None
        if not callable(score):
            raise _unreadable(noun, given, own)
        found = Criterion(given, score)
    try:
        needs = found.needs
    except (TypeError, ValueError):
        raise _unreadable(noun, found.name, own) from None
    allowed = network if "model" in needs else own
    if not needs or any(name not in allowed for name in needs):
        raise ValueError(
            f"{noun}={found.name!r} takes {list(needs)}; a {noun} takes some of {list(own)}, or of "
            f"{list(network)}."
        )
    return found


def _unreadable(noun: str, name: str, own: Sequence[str]) -> ValueError:
    return ValueError(
        f"{noun}={name!r} is no Python function whose arguments can be read; wrap it: "
        f"def mine({own[0]}): return ..."
    )
