"""Masks in pure torch: what may be pruned, what it is worth, how much goes, what stays."""

from ltpl.masks.allocate import SCOPES, allocate
from ltpl.masks.channels import channel_mask
from ltpl.masks.criteria import CRITERIA, Criterion
from ltpl.masks.enforce import Enforcement
from ltpl.masks.mask import LayerDensity, Mask
from ltpl.masks.paths import live, live_path
from ltpl.masks.prune import prune
from ltpl.masks.schedule import AtEpochs, Cubic, Every, PerRound, Schedule
from ltpl.masks.select import prunable

__all__ = [
    "CRITERIA",
    "SCOPES",
    "AtEpochs",
    "Criterion",
    "Cubic",
    "Enforcement",
    "Every",
    "LayerDensity",
    "Mask",
    "PerRound",
    "Schedule",
    "allocate",
    "channel_mask",
    "live",
    "live_path",
    "prunable",
    "prune",
]
