"""Lightning callbacks: attach them to any project, on either namespace, unedited."""

from ltpl.callbacks.freezing import FreezeSparsity
from ltpl.callbacks.pruning import PruneAtEpoch
from ltpl.callbacks.rewinding import RewindToEpoch
from ltpl.callbacks.trajectory import Trajectory
from ltpl.masks.schedule import AtEpochs, Cubic, Every, PerRound

__all__ = [
    "AtEpochs",
    "Cubic",
    "Every",
    "FreezeSparsity",
    "PerRound",
    "PruneAtEpoch",
    "RewindToEpoch",
    "Trajectory",
]
