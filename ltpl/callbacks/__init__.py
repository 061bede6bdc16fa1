"""Lightning callbacks: attach them to any project, on either namespace, unedited."""

from ltpl.callbacks.compacting import CompactAfterPruning
from ltpl.callbacks.distillation import Distillation
from ltpl.callbacks.early_bird import EarlyBird
from ltpl.callbacks.edges import EdgePruning
from ltpl.callbacks.freezing import FreezeSparsity
from ltpl.callbacks.pruning import PruneAtEpoch
from ltpl.callbacks.rewinding import RewindToEpoch
from ltpl.callbacks.slimming import NetworkSlimming
from ltpl.callbacks.supermask import Supermask
from ltpl.callbacks.trajectory import Trajectory
from ltpl.masks.schedule import AtEpochs, Cubic, Every, PerRound

__all__ = [
    "AtEpochs",
    "CompactAfterPruning",
    "Cubic",
    "Distillation",
    "EarlyBird",
    "EdgePruning",
    "Every",
    "FreezeSparsity",
    "NetworkSlimming",
    "PerRound",
    "PruneAtEpoch",
    "RewindToEpoch",
    "Supermask",
    "Trajectory",
]
