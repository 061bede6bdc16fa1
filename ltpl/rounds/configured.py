"""Rounds that a command line describes: `LightningCLI` builds everything anew for each."""

from __future__ import annotations

import copy
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltpl.callbacks.pruning import PruneAtEpoch
from ltpl.rounds.experiment import ALWAYS, Parts, slots
from ltpl.rounds.pace import brisk
from ltpl.rounds.seeds import seed_all

OURS = ("TensorBoardLogger", "CSVLogger")  # a round has its own


class Configured:
    """Builds rounds from a parsed `LightningCLI`.

    Args:
        cli: The command line; `instantiate_classes()` may be called again and again.
        package: Whose command line it is: `pytorch_lightning` or `lightning.pytorch`.
        config: Every option, resolved.
        others: Names of the slots besides `prune` and `rewind`.
    """

    def __init__(self, cli: Any, package: str, config: dict[str, Any], others: Sequence[str]):
        self.cli = cli
        self.package = package
        self.config = config
        self.others = others
        amount = ((config.get("prune") or {}).get("init_args") or {}).get("amount")
        self.amounts: Sequence[float | None] = amount if isinstance(amount, list) else [amount]
        self._ours: tuple[Path, list[Any], list[Any]]
        self._slots: Any = None
        self.again = _command(cli._typed)

    def build(
        self, seed: int, folder: Path, callbacks: Sequence[Any], loggers: Sequence[Any]
    ) -> Parts:
        """Build everything anew."""
        seed_all(seed)
        self._ours = folder, list(callbacks), list(loggers)
        self.cli.instantiate_classes()
        prune, rewind = self._slots
        return Parts(self.cli.model, self.cli.datamodule, self.cli.trainer, prune, rewind)

    def trainer(self, given: dict[str, Any], filled: dict[str, Any], extra: list[Any]) -> Any:
        """Return the Trainer of a round.

        Args:
            given: Options of the Trainer.
            filled: The callbacks in the slots, by name.
            extra: Callbacks that the command line always has.
        """
        folder, callbacks, loggers = self._ours
        self._slots = slots(filled["prune"], filled["rewind"])
        for name in self.others:
            _must_not_prune(name, filled[name])
        theirs = listed(given.get("callbacks")) + [
            callback for name in self.others if (callback := filled[name]) is not None
        ]
        theirs += extra
        theirs += copy.deepcopy(listed(self.cli.trainer_defaults.get("callbacks")))
        kept = [x for x in listed(given.get("logger")) if _is_foreign(x)]
        options = {
            **given,
            **ALWAYS,
            "callbacks": [*callbacks[:1], self._slots[0], *callbacks[1:], *theirs],
            "logger": loggers + kept,
            "default_root_dir": str(folder),
        }
        if "profiler" in given:
            options = brisk(self.package, options)
        try:
            return self.cli.trainer_class(**options)
        except (ValueError, TypeError) as error:
            raise ValueError(f"trainer: {error}") from error


def _must_not_prune(slot: str, callback: Any) -> None:
    """Rounds prune between fits, so nothing else may do so inside them."""
    if isinstance(callback, PruneAtEpoch) and callback.prunes:
        instead = {
            "slim": "put it into `prune`, or let it only penalise (amount: null)",
            "early_bird": "let it only watch (action: stop or save)",
        }
        raise ValueError(
            f"{slot}={type(callback).__name__} prunes inside a fit, but rounds prune between them: "
            f"{instead.get(slot, 'put it into `prune`')}."
        )


def _command(given: Sequence[str]) -> str:
    """Return what was typed to start this process."""
    options = shlex.join(given)
    if os.environ.keys() & {"TORCHELASTIC_RUN_ID", "SLURM_PROCID"}:
        return f"start the same job again ({options})"
    spec = sys.modules["__main__"].__spec__
    if spec is not None:
        return f"python -m {spec.name.removesuffix('.__main__')} {options}"
    program = Path(sys.argv[0])
    return f"{f'python {program}' if program.suffix == '.py' else program.name} {options}"


def listed(value: Any) -> list[Any]:
    """Return callbacks or loggers as Lightning takes them: none, one or several."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_foreign(logger: Any) -> bool:
    return not isinstance(logger, bool) and type(logger).__name__ not in OURS
