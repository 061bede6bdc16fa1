"""What is stored between and within fits: snapshots and steps, in whole files without pickles."""

from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.step import Step

__all__ = ["Snapshot", "Step"]
