"""Which normalisation layers scale channels, and which filters make these channels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedParameter
from torch.optim.swa_utils import AveragedModel

from ltpl.masks.errors import unknown
from ltpl.masks.select import WEIGHTS, kind_of, named_parameters

KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "batch": (_BatchNorm,),
    "instance": (_InstanceNorm,),
    "group": (nn.GroupNorm,),
    "layer": (nn.LayerNorm, nn.RMSNorm),
}
ACROSS_CHANNELS = ("group", "layer")


def scaled_norms(
    model: nn.Module,
    kinds: str | Sequence[str] = ("batch",),
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    frozen: bool = False,
) -> dict[str, nn.Module]:
    """Return the normalisation layers that scale channels by a trainable factor, by path.

    In the order of registration, without the names that wrappers add; the parameters are
    `PATH.weight` (gamma) and, where there is one, `PATH.bias` (beta). A layer that is used in two
    places appears once. Copies that average another model are left out.

    Args:
        model: Any module.
        kinds: Of which kinds: `batch`, `instance`, `group`, `layer` (with RMSNorm).
        include: Globs or exact paths of layers; all of these kinds if not given.
        exclude: Globs or exact paths of layers that are left out.
        frozen: Whether layers whose factor has `requires_grad=False` count too.

    Raises:
        ValueError: If a kind is unknown, an entry matches nothing, nothing is found, or a layer is
            not initialised yet.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
        >>> list(scaled_norms(net))
        ['1']
    """
    kinds = check_kinds(kinds)
    every = named_norms(model, kinds)
    found = {path: every[path] for path, g in gammas(every).items() if frozen or g.requires_grad}
    wanted = _patterns("include", include, found)
    unwanted = _patterns("exclude", exclude, found)
    chosen = {
        path: norm
        for path, norm in found.items()
        if (include is None or _matches(path, wanted)) and not _matches(path, unwanted)
    }
    if not chosen:
        others = [kind for kind in KINDS if named_norms(model, kind)]
        there = f"the network has some of kind {', '.join(others)}" if others else "it has none"
        raise ValueError(
            f"No normalisation layer with a trainable scaling factor of kind {', '.join(kinds)} is "
            f"left in {type(model).__name__} with include={include!r}, exclude={exclude!r}; "
            f"{there}."
        )
    return chosen


def named_norms(
    model: nn.Module, kinds: str | Sequence[str] = tuple(KINDS)
) -> dict[str, nn.Module]:
    """Return the layers of these kinds that have a scaling factor a channel, trained or frozen."""
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    bases = tuple(base for kind in kinds for base in KINDS[kind])
    names = {id(p): name for name, p in named_parameters(model).items()}
    averages = tuple(
        f"{path}." for path, m in model.named_modules() if path and isinstance(m, AveragedModel)
    )
    found: dict[str, nn.Module] = {}
    for path, norm in model.named_modules():
        gamma = norm.weight if isinstance(norm, bases) else None
        if path.startswith(averages) or not isinstance(gamma, nn.Parameter):
            continue
        if isinstance(gamma, UninitializedParameter):
            raise ValueError(
                f"{path!r} is not initialised yet (a lazy module): run one batch through the model "
                "first."
            )
        if gamma.dim() == 1:  # the name of gamma stays, whatever wraps the module
            found.setdefault(names[id(gamma)].removesuffix("weight").removesuffix("."), norm)
    return found


def check_kinds(kinds: str | Sequence[str]) -> tuple[str, ...]:
    """Return the kinds as a tuple.

    Raises:
        ValueError: If one is unknown, or there is none.
    """
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kinds", kind, KINDS)
    if not kinds:
        raise ValueError(f"kinds={kinds!r}: at least one of {', '.join(KINDS)}.")
    return kinds


def warn_of_statistics(norms: Mapping[str, nn.Module]) -> None:
    """Warn if a norm takes statistics across channels, so that removing one changes the others."""
    bases = tuple(base for kind in ACROSS_CHANNELS for base in KINDS[kind])
    if mixed := [path for path, norm in norms.items() if isinstance(norm, bases)]:
        warnings.warn(
            f"{', '.join(mixed)}: these norms take their statistics across channels, pruned ones "
            "included. Their channels are masked, but compaction cannot remove them.",
            stacklevel=3,
        )


def gammas(norms: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Return the scaling factors of each layer."""
    return {path: p for path, norm in norms.items() if isinstance(p := norm.weight, nn.Parameter)}


def scale_names(norms: Mapping[str, nn.Module]) -> dict[str, tuple[str, ...]]:
    """Return, for each layer, the names of gamma and, where there is one, of beta."""
    return {
        path: tuple(f"{path}.{leaf}".lstrip(".") for leaf in _leaves(norm))
        for path, norm in norms.items()
    }


def _leaves(norm: nn.Module) -> list[str]:
    return [leaf for leaf in ("weight", "bias") if isinstance(getattr(norm, leaf, None), Tensor)]


def producers_in_order(
    model: nn.Module, norms: Mapping[str, nn.Module]
) -> dict[str, tuple[str, int]]:
    """Guess which weight makes the channels of each norm: the nearest before it that fits.

    Before it in the order of registration, with as many outputs as the norm has channels. Right
    for networks written from input to output; a graph of the network knows better.

    Returns:
        For each norm the parameter's name and the dimension of its outputs.

    Raises:
        ValueError: If no weight fits a norm, by the norm's name.
    """
    modules = {id(p): m for m in model.modules() for p in m.parameters(recurse=False)}
    paths = {id(gamma): path for path, gamma in gammas(norms).items()}
    sizes: list[tuple[str, int, int]] = []
    found = {}
    for name, parameter in named_parameters(model).items():
        owner = modules[id(parameter)]
        if id(parameter) in paths:
            path, channels = paths[id(parameter)], parameter.numel()
            fitting = [(n, dim) for n, dim, size in sizes if size == channels]
            if not fitting:
                raise ValueError(
                    f"No convolution or linear layer with {channels} outputs comes before "
                    f"{path!r}, so its filters are not known; give producers, or leave the layer "
                    "out with exclude."
                )
            found[path] = fitting[-1]
        elif kind_of(name, parameter, owner) in WEIGHTS:
            dim = int(bool(getattr(owner, "transposed", False)))
            sizes.append((name, dim, parameter.shape[dim]))
    return found


def _patterns(option: str, given: str | Sequence[str] | None, paths: Iterable[str]) -> list[str]:
    patterns = [given] if isinstance(given, str) else list(given or [])
    paths = list(paths)
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise unknown(option, pattern, paths)
    return patterns


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
