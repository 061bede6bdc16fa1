"""Watch on two processes, of which the second would draw other masks; write what both hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from birds import ADAM, network
from tiny import Tiny, loader, trainer

from ltpl.callbacks import EarlyBird
from ltpl.masks.candidate import Candidate
from ltpl.masks.mask import Mask

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    bird = EarlyBird(0.5, 0.35, window=2, action="prune")
    run = trainer(folder, [bird], devices=2, strategy="ddp", max_epochs=8)
    draw = Candidate.draw

    def other(*arguments: Any) -> Mask | None:
        mask = draw(*arguments)
        return mask if mask is None else Mask({name: ~keep for name, keep in mask.items()})

    if run.global_rank == 1:
        Candidate.draw = other
    module = Tiny(network(), ADAM, lr=0.02)
    run.fit(module, loader())
    held = {
        "found": bird.found,
        "mask": dict(bird.mask),
        "ticket": bird.tickets,
        "distances": bird.distances(),
        "weights": dict(module.named_parameters()),
    }
    torch.save(held, folder / f"rank{run.global_rank}.pt")
