"""The command line: LightningCLI, with our classes known by their short names."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

import ltpl
import ltpl.callbacks
import ltpl.data
import ltpl.models
import ltpl.modules


class LotteryCLI(LightningCLI):
    """`fit`, `validate`, `test`, `predict` over any LightningModule and LightningDataModule."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Add `--version` to what Lightning's command line knows."""
        parser = super().init_parser(**kwargs)
        parser.add_argument("--version", action="version", version=f"ltpl {ltpl.__version__}")
        return parser


def main(args: ArgsType = None) -> None:
    """Run the command `ltpl`.

    Args:
        args: The arguments; those of the process if not given.
    """
    LotteryCLI(
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "ltpl"},
        args=args,
    )
