"""`find_tickets`: the whole loop in one call, without a command line."""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from ltpl.callbacks.pruning import PruneAtEpoch
from ltpl.callbacks.rewinding import RewindToEpoch
from ltpl.masks.errors import checked
from ltpl.masks.mask import Mask
from ltpl.rounds.experiment import ALWAYS, Parts, slots
from ltpl.rounds.pace import brisk
from ltpl.rounds.plan import Plan
from ltpl.rounds.run import run_rounds
from ltpl.rounds.seeds import seed_all
from ltpl.rounds.tree import RunTree
from ltpl.tickets.result import Result
from ltpl.tickets.ticket import MASK, Ticket


class Run:
    """A finished run: its results, masks and tickets.

    Args:
        tree: Its folder.
    """

    def __init__(self, tree: RunTree):
        self.tree = tree

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Return the run in a folder.

        Raises:
            ValueError: If there is none.
        """
        return cls(RunTree.existing(path))

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return self.tree.path

    @property
    def results(self) -> list[Result]:
        """Every finished round, by seed and round."""
        return self.tree.results()

    def mask(self, level: int, seed: int = 0) -> Mask:
        """Return what is kept at a level."""
        return Mask.load(self.tree.round(seed, level) / MASK)

    def ticket(self, level: int, seed: int = 0) -> Ticket:
        """Return mask and starting state of a level."""
        return Ticket.load(self.tree.round(seed, level))


@checked
def find_tickets(
    make_model: Callable[[], Any],
    make_data: Callable[[], Any] | None = None,
    *,
    run: str | Path,
    levels: int | None = None,
    seeds: Sequence[int] | str | int = (0,),
    prune: PruneAtEpoch | Mapping[str, Any] | None = None,
    rewind: RewindToEpoch | Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Train, prune, rewind, repeat; the same call again goes on where it was interrupted.

    Args:
        make_model: Returns a new LightningModule, of `pytorch_lightning` or `lightning.pytorch`.
        make_data: Returns a new LightningDataModule; not given, the module brings its data.
        run: Folder of the run.
        levels: How many times to prune.
        seeds: Replicates: `[0, 1]`, or written `0-4`.
        prune: A `PruneAtEpoch`, or its options; 20 % globally if not given.
        rewind: A `RewindToEpoch`, or its options; back to initialisation if not given.
        trainer: Options of the Trainer, such as `dict(max_epochs=20)`.
        **options: What else `Plan` takes: `densities`, `one_shot`, `order_seed`, `quiet`, ...

    Returns:
        The finished run.

    Raises:
        ValueError: If an option is wrong, or the folder holds a run with other options.
    """
    if not callable(make_model) or not (make_data is None or callable(make_data)):
        raise ValueError("make_model and make_data are called for every round: give functions.")
    wanted = seeds if isinstance(seeds, (str, int)) else list(seeds)
    plan = Plan(run=str(run), levels=levels, seeds=wanted, **options)
    if plan.branches:
        raise ValueError("branches: the command line runs them; in Python, call run_branch.")
    if prune is None or isinstance(prune, Mapping):
        prune = PruneAtEpoch(**(prune or {}))
    if rewind is None or isinstance(rewind, Mapping):
        rewind = RewindToEpoch(**(rewind or {}))
    slots(prune, rewind)
    experiment = InPython(make_model, make_data, prune, rewind, dict(trainer or {}))
    run_rounds(experiment, plan, plan.replicates())
    return Run(RunTree(run))


class InPython:
    """Builds rounds from functions and options."""

    again = "the same call"

    def __init__(
        self,
        make_model: Callable[[], Any],
        make_data: Callable[[], Any] | None,
        prune: PruneAtEpoch,
        rewind: RewindToEpoch,
        trainer: dict[str, Any],
    ):
        self.make_model = make_model
        self.make_data = make_data
        self.prune = prune
        self.rewind = rewind
        self.trainer = trainer
        self.amounts: Sequence[float | None] = prune.amounts
        self.package = package_of(make_model())
        self.config = {
            "model": _told(make_model),
            "data": _told(make_data),
            "prune": _told(vars(prune)),
            "rewind": _told(vars(rewind)),
            "trainer": _told(trainer),
        }

    def build(
        self, seed: int, folder: Path, callbacks: Sequence[Any], loggers: Sequence[Any]
    ) -> Parts:
        """Build everything anew."""
        seed_all(seed)
        module = self.make_model()
        data = self.make_data() if self.make_data is not None else None
        prune, rewind = copy.deepcopy(self.prune), copy.deepcopy(self.rewind)
        theirs = copy.deepcopy(self.trainer.get("callbacks") or [])
        theirs = theirs if isinstance(theirs, list) else [theirs]
        options = {
            **self.trainer,
            **ALWAYS,
            "callbacks": [*callbacks[:1], prune, *callbacks[1:], *theirs],
            "logger": list(loggers),
            "default_root_dir": folder,
        }
        trainer = importlib.import_module(self.package).Trainer(**brisk(self.package, options))
        return Parts(module, data, trainer, prune, rewind)


def package_of(module: Any) -> str:
    """Return whose LightningModule it is: `pytorch_lightning` or `lightning.pytorch`."""
    for kind in type(module).__mro__:
        for package in ("lightning.pytorch", "pytorch_lightning"):
            if kind.__name__ == "LightningModule" and kind.__module__.startswith(package):
                return package
    raise ValueError(f"make_model returned a {type(module).__name__}; a LightningModule is needed.")


def _told(value: Any, depth: int = 4) -> Any:
    """Return what JSON can say of an option; of other objects, what they are and hold."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_told(v, depth) for v in value]
    if isinstance(value, Mapping):
        shown = {str(k): v for k, v in value.items() if not str(k).startswith("_")}
        return {k: _told(v, depth) for k, v in shown.items()}
    if isinstance(value, partial):
        held = {"arguments": value.args, "keywords": value.keywords}
        return {"partial": _told(value.func, depth), **_told(held, depth)}
    if isinstance(value, FunctionType):
        return _code(value, depth)
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if not depth or not hasattr(value, "__dict__"):
        return str(value) if isinstance(value, Path) else kind
    return {"class": kind, **_told(vars(value), depth - 1)}


def _code(function: FunctionType, depth: int) -> dict[str, Any]:
    """Tell a function by what it does, so that one rewritten in a notebook is another."""
    code = function.__code__
    constants = [c for c in code.co_consts if not isinstance(c, CodeType)]
    does = repr((code.co_code, code.co_names, constants)).encode()
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    return {
        "function": f"{function.__module__}.{function.__qualname__}",
        "code": hashlib.sha256(does).hexdigest()[:16],
        "holds": _told([held, list(function.__defaults__ or ())], depth - 1) if depth else None,
    }
