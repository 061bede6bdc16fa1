"""`channel_mask`: which channels stay, as a mask over the scaling factors and shifts of norms."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.masks.allocate import check_options
from ltpl.masks.channel_scores import Score, channel_scores, find_score, tells_apart
from ltpl.masks.errors import check_seed, check_types, unknown
from ltpl.masks.mask import Mask
from ltpl.masks.norms import gammas, named_norms, scale_names, scaled_norms, warn_of_statistics
from ltpl.masks.saliency import Loss, Reduce, only_kept
from ltpl.masks.select import named_parameters
from ltpl.masks.units import FIXED, REDUCTIONS, TRUNKS, Ranking, units_of

__all__ = [
    "REDUCTIONS",
    "TRUNKS",
    "LayerChannels",
    "channel_mask",
    "channels",
    "scaled_norms",
    "table",
    "tells_apart",
    "told",
    "units_of",
]


@dataclass(frozen=True)
class LayerChannels:
    """One row of `table`."""

    layer: str
    kept: int
    total: int

    @property
    def density(self) -> float:
        """Share of this layer's channels that are kept."""
        return self.kept / self.total if self.total else 1.0


def channel_mask(
    model: nn.Module,
    amount: float,
    *,
    score: Score = "gamma",
    of: str = "all",
    min_keep: int = 1,
    units: Mapping[str, Tensor] | None = None,
    reduction: str = "max",
    kinds: str | Sequence[str] = ("batch",),
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    mask: Mask | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    producers: Mapping[str, tuple[str, int]] | None = None,
    reduce: Reduce | None = None,
) -> Mask:
    """Return the mask that keeps the best channels of `model`; `mask.apply_(model)` prunes them.

    It covers gamma *and* beta: a channel whose gamma alone is zero still sends a constant. All
    layers are ranked together and exactly round(amount * channels) go; of equal scores the first
    in order of position stays. The mask's metadata say how many channels were asked for and went.

    Args:
        model: Any module with normalisation layers.
        amount: Share of channels to prune, 0 <= amount < 1.
        score: What is kept: `gamma`, `l1`, `l2`, `taylor`, `random`, a function or its dotted path.
        of: What `amount` is a share of: `all` channels, or the `remaining`.
        min_keep: At least so many channels of each layer stay; others go instead.
        units: By layer, one id a channel: equal ids live and die together, -1 may not be pruned
            and does not count. Each channel is alone if not given. See `units_of`.
        reduction: What a unit is worth: the `max` or `mean` of its channels; or `union`: channels
            are ranked alone, and a unit stays if any of its channels does. Units may leave the
            count short of what was asked, never beyond.
        kinds: Kinds of normalisation layers: `batch`, `instance`, `group`, `layer`.
        include: Globs or exact paths of layers; all if not given.
        exclude: Globs or exact paths of layers that are left out.
        mask: What was kept until now; nothing pruned comes back, and other parameters in it stay
            as they are.
        batches: Data, for scores that look at it.
        loss: `loss(model, batch)`, for scores that follow a gradient.
        seed: Seed of random choices.
        producers: For `l1` and `l2`, the weight that makes each layer's channels, see
            `channel_scores`.
        reduce: Averages a tensor over processes, each of which has batches of its own.

    Raises:
        ValueError: If an option is out of range, a name is unknown, nothing is found, scores are
            not finite, something that the score needs is missing, or `min_keep` keeps too much.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        >>> net[1].weight.data = torch.tensor([0.1, -2.0, 0.3, 0.2])
        >>> channel_mask(net, 0.5)["1.bias"]
        tensor([False,  True,  True, False])
    """
    check_types(channel_mask, locals())
    check_options(amount, of, "global", min_keep)
    check_seed("seed", seed)
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    score = find_score(score)
    norms = scaled_norms(model, kinds, include, exclude)
    warn_of_statistics(norms)
    parameters = named_parameters(model)
    if mask is not None:
        mask.must_fit(parameters)
    ranked = {path: norm for path, norm in norms.items() if not _fixed(units, path)}
    if not ranked:
        raise ValueError(
            f"No channel of {', '.join(norms)} may be pruned: all belong to the trunk or hang "
            "together with something that stays. Use trunk='group' or 'all'."
        )
    with only_kept(parameters, mask or {}):
        found = channel_scores(
            model,
            ranked,
            score,
            batches=batches,
            loss=loss,
            seed=seed,
            producers=producers,
            reduce=reduce,
        )
    scores = {p: found.get(p, torch.zeros(len(gamma))) for p, gamma in gammas(norms).items()}
    ranking = Ranking(scores, channels(mask or {}, norms), units)
    count = ranking.to_prune(amount, of)
    _warn_of_constant(score.name, ranking, count)
    stays = ranking.pruned(count, min_keep, reduction)
    keep = dict(mask or {}) | _over_scales(norms, stays, mask or {}, parameters)
    gone = sum(ranking.alive) - sum(int(kept.count_nonzero()) for kept in stays.values())
    return Mask(keep, {"channels_asked": str(count), "channels_pruned": str(gone)})


def channels(mask: Mapping[str, Tensor], norms: Iterable[str] | nn.Module) -> dict[str, Tensor]:
    """Return which channels a mask keeps, by layer; layers without a mask are left out.

    Args:
        mask: A mask over scaling factors, as `channel_mask` returns it.
        norms: The layers' paths, or the model: then all its normalisation layers.
    """
    if isinstance(norms, nn.Module):
        norms = named_norms(norms)
    named = {path: f"{path}.weight".lstrip(".") for path in norms}
    return {path: mask[name] for path, name in named.items() if name in mask}


def table(mask: Mapping[str, Tensor], norms: Iterable[str] | nn.Module) -> list[LayerChannels]:
    """Return one row a layer: channels kept, channels in all."""
    return [
        LayerChannels(path, int(kept.count_nonzero()), kept.numel())
        for path, kept in channels(mask, norms).items()
    ]


def told(rows: Iterable[LayerChannels], metadata: Mapping[str, str]) -> str:
    """Return the rows as text, one a line, with how many channels went of those asked for.

    Args:
        rows: One a layer, see `table`.
        metadata: Of the mask that `channel_mask` returned.
    """
    rows = list(rows)
    kept, total = sum(row.kept for row in rows), sum(row.total for row in rows)
    asked, gone = (metadata.get(f"channels_{key}", "") for key in ("asked", "pruned"))
    short = f"; {gone} went now, {asked} were asked for" if asked != gone else ""
    lines = [f"{row.layer}: {row.kept} of {row.total} channels" for row in rows]
    return "\n  ".join([f"{kept} of {total} channels stay{short}:", *lines])


def _fixed(units: Mapping[str, Tensor] | None, path: str) -> bool:
    """Whether no channel of a layer may be pruned, so that none needs a score."""
    return units is not None and path in units and bool((units[path] == FIXED).all())


def _over_scales(
    norms: Mapping[str, nn.Module],
    stays: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Write what stays over gamma and beta of each layer."""
    keep = {}
    for path, names in scale_names(norms).items():
        for name in names:
            kept = stays[path].to(parameters[name].device)
            keep[name] = kept & before[name].to(kept.device) if name in before else kept.clone()
    return keep


def _warn_of_constant(score: str, ranking: Ranking, count: int) -> None:
    found = [ranking.scores[i] for i in ranking.open]
    if 0 < count < len(found) and not tells_apart({"": torch.tensor(found, dtype=torch.double)}):
        warnings.warn(
            f"All {len(found)} channels have the same score {found[0]:g} by {score!r}, which says "
            "nothing about them (scaling factors before training?): they are pruned by position.",
            stacklevel=3,
        )
