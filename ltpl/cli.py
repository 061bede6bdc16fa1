"""The command line: `LotteryCLI` for your module and data, `main` for ours."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ltpl.commands import LotteryCommands

if TYPE_CHECKING:
    from pytorch_lightning.cli import ArgsType, LightningCLI
else:  # only now: our callbacks have looked which of the two packages may be meant
    LightningCLI = importlib.import_module("pytorch_lightning.cli").LightningCLI

__all__ = ["LotteryCLI", "LotteryCommands", "main"]


class LotteryCLI(LotteryCommands, LightningCLI):
    """The commands of `ltpl` over any LightningModule and LightningDataModule.

    Takes what `LightningCLI` takes. For modules of `lightning.pytorch`, it is that package's
    `LightningCLI`.

    Example:
        >>> from ltpl.cli import LotteryCLI
        >>> LotteryCLI.subcommands().keys() >= {"fit", "rounds", "branch", "status", "report"}
        True
    """

    package = "pytorch_lightning"

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Choose the package by the classes given."""
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, type)]
        other = "lightning.pytorch"
        if not any(k.__module__.startswith(other) for x in given for k in x.__mro__):
            return super().__new__(cls)
        if cls is not LotteryCLI:
            raise ValueError(
                f"{cls.__name__} is for modules of pytorch_lightning, {given[0].__name__} is of "
                f"{other}: derive from LotteryCommands and {other}.cli.LightningCLI, with "
                f"package = {other!r}."
            )
        base = importlib.import_module(f"{other}.cli").LightningCLI
        return type("LotteryCLI", (LotteryCommands, base), {"package": other})(*args, **kwargs)


def main(args: ArgsType = None) -> None:
    """Run the command `ltpl`.

    Args:
        args: The arguments; those of the process if not given.
    """
    for room in ("data", "models", "modules"):  # from then on their short names are known
        importlib.import_module(f"ltpl.{room}")
    LotteryCLI(
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_kwargs={"prog": "ltpl"},
        args=args,
    )
