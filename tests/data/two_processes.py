"""Trains and judges on two processes, and writes what each of them got; run by `test_training`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

from ltpl.data.resident import Resident

from .numbered import QUIET, Numbered, Recorder, Saving, Seen, fit, same_weights

EPOCHS, STOPPED = 2, 3  # batches: in the second epoch, of two


def plain(seen: list[Seen]) -> list[tuple[int, list[int], torch.Tensor]]:
    return [(step.epoch, step.numbers, step.images) for step in seen]


def main(folder: Path) -> None:
    data = Resident(**torch.load(folder / "data.pt"))
    options = {"devices": 2, "strategy": "ddp", "max_epochs": EPOCHS}
    trainer = pl.Trainer(**(QUIET | options))
    recorder = Recorder(data)
    (val,) = trainer.validate(recorder, datamodule=Numbered(data), verbose=False)
    (test,) = trainer.test(recorder, datamodule=Numbered(data), verbose=False)

    saving = Saving(folder)
    whole = fit(data, callbacks=saving, **options)
    rest = fit(data, ckpt_path=saving.saved[STOPPED], **options)
    found = {
        "judged": {name: float(value) for name, value in (val | test).items()},
        "seen": plain(whole.seen),
        "goes_on": rest.seen == whole.seen[STOPPED:] and same_weights(rest, whole),
    }
    torch.save(found, folder / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
