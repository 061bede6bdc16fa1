"""How a run is left when it is cut short: with a word on how to go on."""

from __future__ import annotations

import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ltpl.rounds.progress import Display
from ltpl.rounds.ranks import leads, several
from ltpl.rounds.siblings import GRACE, is_of_a_lost_process
from ltpl.rounds.stop import Stop, Stopped


@contextmanager
def leaving(display: Display, stop: Stop, again: str) -> Iterator[None]:
    """Say how to go on when a signal or the loss of a process ends the block.

    Args:
        display: What is said is said there.
        stop: Heard the signal.
        again: What to do to go on.
    """
    try:
        yield
    except Stopped as stopped:
        kept = f"{stopped.where} is in the checkpoint" if stopped.where else "what is done is kept"
        display.error(f"{stopped.name}: {kept}. To go on: {again}")
        if leads() and (handed := stop.requeued(stopped)):
            display.error(handed)
        sys.exit(128 + stopped.number)
    except (KeyboardInterrupt, SystemExit) as stopped:  # at once, or by a handler of Lightning
        if not leads():
            raise
        display.error(f"Interrupted: what is done is kept. To go on: {again}")
        by_hand = isinstance(stopped.__context__ or stopped, KeyboardInterrupt)
        sys.exit(128 + (signal.SIGINT if by_hand else signal.SIGTERM))
    except RuntimeError as error:
        if not several() or not is_of_a_lost_process(error):
            raise
        time.sleep(2 * GRACE)  # whoever started the processes ends them all, and says so
        why = str(error).split("\n")[0]
        display.error(f"Another process is gone ({why}). To go on: {again}")
        sys.exit(1)


@contextmanager
def lightning_whispers() -> Iterator[None]:
    """Hide what Lightning says at the start and end of every fit; warnings come through once."""
    names = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")
    loggers = [logging.getLogger(name) for name in (*names, "lightning_utilities.core.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*is smaller than the logging interval.*")
        warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")  # see EpochSeeds
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
