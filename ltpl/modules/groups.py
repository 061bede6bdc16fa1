"""Parameter groups: which parameters weight decay leaves alone."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

KINDS = ("norm", "bias")


def parameter_groups(network: nn.Module, no_decay: str | Sequence[str]) -> list[Any]:
    """Return what an optimiser takes: the parameters that train, some of them without decay.

    Frozen parameters are left out, shared ones come once. A shared one is without decay if any of
    its names is.

    Args:
        network: The network.
        no_decay: What gets no weight decay: `norm` (scales and shifts of normalisation layers),
            `bias`, names of parameters, or globs.

    Returns:
        Without `no_decay` the parameters themselves, or else one group with the optimiser's own
        weight decay and one without any; a group that would be empty is left out.

    Raises:
        ValueError: If an entry matches nothing, or nothing trains.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        >>> with_decay, without = parameter_groups(net, ["norm", "2.*"])
        >>> len(with_decay["params"]), len(without["params"]), without["weight_decay"]
        (2, 4, 0.0)
    """
    patterns = [no_decay] if isinstance(no_decay, str) else list(no_decay)
    trained = [p for p in network.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("Nothing to train: no parameter of the network has requires_grad=True.")
    if not patterns:
        return trained
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    spared: set[int] = set()
    for pattern in patterns:
        found = _matching(network, pattern)
        if not found and pattern not in KINDS:
            near = difflib.get_close_matches(pattern, [*KINDS, *names], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"no_decay={pattern!r} matches no parameter of the network; give norm, bias, a "
                f"name or a glob.{hint}"
            )
        spared |= found
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if id(p) not in spared]},
        {"params": [p for p in trained if id(p) in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _matching(network: nn.Module, pattern: str) -> set[int]:
    """Return the identities of the parameters that an entry of `no_decay` means."""
    found = set()
    for name, parameter in network.named_parameters(remove_duplicate=False):
        path, _, leaf = name.rpartition(".")
        owner = network.get_submodule(path)
        if pattern == "norm":
            matches = isinstance(owner, (_NormBase, nn.LayerNorm, nn.GroupNorm))
            matches |= "Norm" in type(owner).__name__
        elif pattern == "bias":
            matches = "bias" in leaf
        else:
            matches = fnmatchcase(name, pattern)
        if matches:
            found.add(id(parameter))
    return found
