"""The mask that would be drawn now: of a live network, or of a checkpoint of any epoch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.masks.channel_scores import channel_scores, tells_apart
from ltpl.masks.channels import channel_mask
from ltpl.masks.channels import channels as kept_channels
from ltpl.masks.errors import told_by_torch, unknown
from ltpl.masks.mask import Mask
from ltpl.masks.norms import check_kinds, scaled_norms
from ltpl.masks.prune import prune
from ltpl.masks.units import FIXED, REDUCTIONS

CHANNELS = ("gamma", "magnitude")


@dataclass(frozen=True)
class Candidate:
    """How the mask is drawn that would be used if training ended now.

    Args:
        channels: `gamma`: channels by scaling factor, see `channel_mask`; `magnitude`: single
            weights, see `prune`.
        include: Which normalisation layers (`gamma`) or parameters (`magnitude`) may be pruned.
        exclude: Which may not.
        min_keep: At least so many channels of each layer, or weights of each parameter, stay.
        kinds: Kinds of normalisation layers.
        units: By layer, which channels live and die together, or are never pruned.
        reduction: What channels that live and die together are worth.

    Raises:
        ValueError: If a name is unknown.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
        >>> Candidate("gamma").draw(net, 0.5) is None
        True
        >>> Candidate("magnitude").draw(net, 0.5).kept
        4
    """

    channels: str = "gamma"
    include: str | Sequence[str] | None = None
    exclude: str | Sequence[str] | None = None
    min_keep: int = 1
    kinds: str | Sequence[str] = "batch"
    units: Mapping[str, Tensor] | None = None
    reduction: str = "max"

    def __post_init__(self) -> None:
        for option, given, allowed in (
            ("channels", self.channels, CHANNELS),
            ("reduction", self.reduction, REDUCTIONS),
        ):
            if given not in allowed:
                raise unknown(option, given, allowed)
        check_kinds(self.kinds)

    def norms(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the layers whose channels are masked, by path."""
        return scaled_norms(model, self.kinds, self.include, self.exclude)

    def draw(self, model: nn.Module, amount: float, mask: Mask | None = None) -> Mask | None:
        """Return the mask that prunes `amount` of all of `model`, without a word of warning.

        Args:
            model: Any module; it is not changed.
            amount: Share to prune, 0 <= amount < 1.
            mask: What was kept until now.

        Returns:
            The mask; None where scaling factors are constant in every layer and say nothing.

        Raises:
            ValueError: If an option is wrong or there is nothing to prune.
        """
        names: dict[str, Any] = {"include": self.include, "exclude": self.exclude}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.channels == "magnitude":
                return prune(model, amount, of="all", mask=mask, min_keep=self.min_keep, **names)
            scores = channel_scores(model, self.norms(model))
            if not any(tells_apart({path: factors}) for path, factors in scores.items()):
                return None
            return channel_mask(
                model,
                amount,
                mask=mask,
                min_keep=self.min_keep,
                kinds=self.kinds,
                units=self.units,
                reduction=self.reduction,
                **names,
            )

    def bits(self, mask: Mask, model: nn.Module) -> Tensor:
        """Return what `mask` decides as one row: one bit for each channel or weight.

        Gamma and beta of a channel are the same bit, and a channel that may never be pruned is
        none.
        """
        if self.channels == "magnitude":
            return torch.cat([keep.reshape(-1).cpu() for keep in mask.values()])
        units = self.units or {}
        kept = kept_channels(mask, self.norms(model))
        rows = [keep[units[p] != FIXED] if p in units else keep for p, keep in kept.items()]
        return torch.cat([row.cpu() for row in rows])


def mask_at(path: str | Path, model: nn.Module, amount: float, **options: Any) -> Mask | None:
    """Return the mask that would have been drawn from a Lightning checkpoint of any epoch.

    To compare the automatic choice with fixed ones: `found.distance(mask_at(path, model, 0.5))`.
    Nothing in the file is run, and `model` stays as it is. To train on from there, resume from the
    checkpoint of epoch k with a callback that prunes at k.

    Args:
        path: The checkpoint.
        model: The LightningModule, or the network inside it; names in the mask are those of it.
        amount: Share to prune.
        options: What `Candidate` takes.

    Raises:
        ValueError: If the file is no checkpoint, or the model does not fit it.
    """
    try:
        stored = torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # whatever the reader says of a file that is something else
        line = told_by_torch(error)
        raise ValueError(f"{path} is no checkpoint that can be read safely: {line}") from None
    weights = stored.get("state_dict") if isinstance(stored, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"{path} is no Lightning checkpoint: it has no 'state_dict'.")
    twin = copy.deepcopy(model)
    twin.load_state_dict(_of(twin, weights, path))
    return Candidate(**options).draw(twin, amount)


def _of(model: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Return the weights under the names that `model` has; a module may hold it as an attribute."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    first = next(iter(shapes))
    ends = [name.removesuffix(first) for name in weights if name.endswith(first)]
    for prefix in sorted(ends, key=len):
        found = {name: weights[prefix + name] for name in shapes if prefix + name in weights}
        if {name: value.shape for name, value in found.items()} == shapes:
            return found
    raise ValueError(
        f"{path} does not fit {type(model).__name__}: it has {', '.join(list(weights)[:3])}, ...; "
        f"the model has {', '.join(list(shapes)[:3])}, ..., or other shapes."
    )
