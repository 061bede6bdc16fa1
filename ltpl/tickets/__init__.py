"""What is stored between and within fits: snapshots, steps, edges, in whole files, no pickles."""

from ltpl.tickets.edges import EdgeTicket
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.step import Step

__all__ = ["EdgeTicket", "Snapshot", "Step"]
