"""Which parameters may be pruned: chosen by name and shape, narrowed by glob, logged once."""

from __future__ import annotations

import functools
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from ltpl.masks.errors import checked, unknown
from ltpl.masks.shards import parameters_of

WEIGHTS = ("linear", "conv")
ON_REQUEST = ("bias", "norm", "embedding", "attention", "vector")

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_checkpoint_wrapped_module)\.")
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameter name -> parameter, tied ones once, without the names that wrappers add.

    `torch.compile` and activation checkpointing wrap modules and so change names; a mask made on
    the plain network must fit the wrapped one and the other way round.
    """
    return {_WRAPPERS.sub("", name): p for name, p in parameters_of(model).items()}


def named_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffer name -> buffer, named as `named_parameters` names."""
    return {_WRAPPERS.sub("", name): b for name, b in model.named_buffers()}


@checked
def prunable(
    model: nn.Module,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    frozen: bool = False,
) -> dict[str, nn.Parameter]:
    """Return the parameters of `model` that may be pruned, in the order of the model.

    Matrices and kernels are chosen, whatever module holds them. Biases, normalisation, embeddings,
    PyG's attention vectors and other vectors are left out unless asked for. A tied parameter
    appears once, under its first name, and is left out if any of its names is.

    Args:
        model: Any module.
        include: Globs and exact names narrow the choice to what they match; an exact name may be
            one that is left out by default. The kinds `bias`, `norm`, `embedding`, `attention`,
            `vector` add to the choice.
        exclude: Globs, exact names or kinds (also `linear`, `conv`) that are left out.
        frozen: Whether parameters with `requires_grad=False` may be pruned too.

    Raises:
        ValueError: If an entry matches nothing, nothing is left, or a chosen parameter is not
            initialised yet (lazy modules).

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        >>> list(prunable(net))
        ['0.weight', '2.weight']
        >>> list(prunable(net, exclude="2.*"))
        ['0.weight']
    """
    names, parameters, kinds = _survey(model)
    wanted = _patterns("include", include, names, kinds)
    unwanted = _patterns("exclude", exclude, names, kinds)
    every = {alias for aliases in names.values() for alias in aliases}
    narrowing = [p for p in wanted if p not in ON_REQUEST]
    globs = [p for p in narrowing if p not in WEIGHTS and p not in every]
    chosen = {}
    for name, parameter in parameters.items():
        aliases, kind = names[name], kinds[name]
        asked = kind in wanted or any(alias in wanted for alias in aliases)
        by_default = kind in WEIGHTS and (not narrowing or _matches(aliases, globs))
        if not (asked or by_default):
            continue
        if kind in unwanted or _matches(aliases, unwanted):
            continue
        if not (frozen or parameter.requires_grad):
            continue
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(
                f"{name!r} is not initialised yet (a lazy module): run one batch through the model "
                "before pruning, or leave it out with exclude."
            )
        chosen[name] = parameter
    if not chosen:
        raise ValueError(
            "Nothing to prune: no matrix or kernel that trains is left of "
            f"{len(parameters)} parameters with include={include!r}, exclude={exclude!r}."
        )
    _say_once(f"Chosen: {described(chosen, model)}")
    return chosen


def described(chosen: Mapping[str, Tensor], model: nn.Module, most: int = 8) -> str:
    """Return one line on what was chosen: how many weights of how many, names and shapes."""
    sized = [p for p in model.parameters() if not isinstance(p, UninitializedParameter)]
    everything = sum(p.numel() for p in sized)
    weights = sum(p.numel() for p in chosen.values())
    names = [f"{name} {tuple(p.shape)}" for name, p in chosen.items()]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (
        f"{len(names)} parameters, {weights:,} of {everything:,} weights: "
        f"{', '.join(names[:most])}{more}"
    )


@functools.lru_cache(maxsize=256)
def _say_once(line: str) -> None:
    logging.getLogger("ltpl").info(line)


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias, by its name."""
    return "bias" in name.rpartition(".")[2].lower()


def kind_of(name: str, parameter: Tensor, owner: nn.Module) -> str:
    """Say what a parameter is: one of `WEIGHTS` (may be pruned) or of `ON_REQUEST`."""
    leaf = name.rpartition(".")[2].lower()
    shape = () if isinstance(parameter, UninitializedParameter) else tuple(parameter.shape)
    owner_name = type(owner).__name__
    if is_bias(name):
        return "bias"
    if isinstance(owner, _NORMS) or "Norm" in owner_name:
        return "norm"
    if (
        isinstance(owner, _EMBEDDINGS)
        or "Embedding" in owner_name
        or re.search(r"emb|(^|_)(token|pos|position)s?(_|$)", leaf)
    ):
        return "embedding"
    if isinstance(parameter, UninitializedParameter):
        return "linear"
    if len(shape) < 2:
        return "vector"
    if leaf.startswith("att") and shape[0] == 1:
        return "attention"
    named_weight = "weight" in leaf and not leaf.endswith("_g")
    if not named_weight and sum(size > 1 for size in shape) < 2:
        return "vector"
    if not named_weight and shape[0] == 1:
        return "vector"
    return "linear" if len(shape) == 2 else "conv"


def normalised_directions(model: nn.Module) -> dict[str, int]:
    """Return the weights that `torch.nn.utils.weight_norm` divides by their norm along `dim`.

    A row of these that is all zero is divided by zero, so none may be pruned to the last weight.
    """
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, ParametrizationList) and isinstance(module[0], _WeightNorm):
            found[f"{path}.original1"] = module[0].dim
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                found[f"{path}.{hook.name}_v".lstrip(".")] = hook.dim
    return {_WRAPPERS.sub("", name): dim for name, dim in found.items() if dim >= 0}


def output_weights(model: nn.Module, chosen: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the output layer's weights: one, unless the layer has several.

    A network may state it: an attribute `output_layer`, the name of a submodule, or a tuple of
    them. Otherwise it is the last weight in the order of registration.
    """
    for path, module in model.named_modules():
        stated = getattr(module, "output_layer", None)
        found = []
        for layer in (stated,) if isinstance(stated, str) else _strings(stated):
            prefix = _WRAPPERS.sub("", f"{path}.{layer}.".lstrip("."))
            found += [name for name in chosen if name.startswith(prefix)][-1:]
        if found:
            return found
    return list(chosen)[-1:]


def _strings(value: object) -> list[str]:
    return [x for x in value if isinstance(x, str)] if isinstance(value, tuple) else []


def layer_rates(
    model: nn.Module, chosen: Mapping[str, Tensor], rates: Mapping[str, float] | None
) -> dict[str, float]:
    """Resolve `rates` (by kind, glob or name) to one factor for each chosen parameter.

    The most specific entry counts: the name, then a glob (the last that matches), then `output`,
    then the kinds `linear` and `conv`, else 1.

    Raises:
        ValueError: If a glob or name matches nothing, or a rate is negative.
    """
    if not rates:
        return dict.fromkeys(chosen, 1.0)
    rates = dict(rates)
    kinds = {n: k for n, k in _survey(model)[2].items() if n in chosen}
    output = output_weights(model, chosen) if "output" in rates else []
    resolved = {}
    used = {"output"}
    for name, kind in kinds.items():
        globs = [key for key in rates if key not in (*WEIGHTS, "output") and fnmatchcase(name, key)]
        used.update(globs, {kind})
        if globs:
            resolved[name] = rates[name if name in globs else globs[-1]]
        elif name in output:
            resolved[name] = rates["output"]
        else:
            resolved[name] = rates.get(kind, 1.0)
    for key, rate in rates.items():
        if key not in used and key not in WEIGHTS:
            raise unknown("rates", key, ["output", *WEIGHTS, *chosen])
        if not 0 <= rate < float("inf"):
            raise ValueError(f"rates[{key!r}]={rate}: a rate is 0 (exempt) or a positive factor.")
    return {name: float(resolved[name]) for name in chosen}


def _survey(
    model: nn.Module,
) -> tuple[dict[str, list[str]], dict[str, nn.Parameter], dict[str, str]]:
    """Return every name, the parameter and the kind, by first name."""
    aliases: dict[int, list[str]] = defaultdict(list)
    found: dict[int, nn.Parameter] = {}
    kind: dict[int, str] = {}
    averages = tuple(
        f"{path}." for path, m in model.named_modules() if path and isinstance(m, AveragedModel)
    )
    for name, parameter in parameters_of(model, remove_duplicate=False).items():
        if name.startswith(averages):
            continue
        here = kind_of(*_without_parametrization(model, name, parameter))
        key = id(parameter)
        if kind.get(key, WEIGHTS[0]) in WEIGHTS:
            kind[key] = here
        aliases[key].append(_WRAPPERS.sub("", name))
        found[key] = parameter
    names = {every[0]: list(dict.fromkeys(every)) for every in aliases.values()}
    first = {key: every[0] for key, every in aliases.items()}
    return (
        names,
        {first[key]: p for key, p in found.items()},
        {first[key]: k for key, k in kind.items()},
    )


def _without_parametrization(
    model: nn.Module, name: str, parameter: nn.Parameter
) -> tuple[str, nn.Parameter, nn.Module]:
    """Name a parameter and its module as before `torch.nn.utils.parametrize` came."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if isinstance(owner, ParametrizationList):
        length = leaf == "original0" and type(owner[0]).__name__ == "_WeightNorm"
        path, _, name = path.rpartition(".")
        name += "_g" if length else ""
        owner = model.get_submodule(path.removesuffix("parametrizations").removesuffix("."))
    return name, parameter, owner


def _patterns(
    option: str,
    given: str | Sequence[str] | None,
    names: Mapping[str, list[str]],
    kinds: Mapping[str, str],
) -> list[str]:
    patterns = [given] if isinstance(given, str) else list(given or [])
    every = [alias for aliases in names.values() for alias in aliases]
    for pattern in patterns:
        if pattern in (*WEIGHTS, *ON_REQUEST) or _matches(every, [pattern]):
            continue
        raise unknown(option, pattern, [*ON_REQUEST, *WEIGHTS, *every])
    return patterns


def _matches(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
