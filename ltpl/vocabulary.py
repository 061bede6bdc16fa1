"""What the command line knows by name: slots for callbacks, and commands of its own."""

from __future__ import annotations

SLOTS = {
    "prune": "What prunes, such as PruneAtEpoch.",
    "rewind": "Where to go back to after a pruning, such as RewindToEpoch.",
    "slim": "A penalty that thins channels out.",
    "early_bird": "What stops when the ticket no longer changes.",
    "edges": "Edges that go, such as EdgePruning.",
    "distill": "A teacher, such as Distillation.",
    "trajectory": "What is logged about sparsity, such as Trajectory.",
}
OWN = {
    "rounds": "Find tickets: train, prune, rewind, repeat; the same command again goes on.",
    "branch": "Run controls and variants over finished rounds of a run.",
    "status": "Show what is done and what is left.",
    "report": "Write one page with figures and tables.",
    "check": "Compare runs with what their configs expect: agree, differ or not yet.",
    "compact": "Remove pruned channels and neurons for good, prove it, write a small network.",
}
