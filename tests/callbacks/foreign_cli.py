"""A project's own command line, as they write it: nothing here knows of ltpl.

Run as `python foreign_cli.py NAMESPACE FOLDER`: every YAML in the folder is one command line. Its
checkpoint lies beside it afterwards, or its error. Where an empty file `.printed` lies beside it,
what `--print_config` says goes there and is run too.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from pathlib import Path

import torch


def main(namespace: str, folder: Path) -> None:
    cli = importlib.import_module(f"{namespace}.cli").LightningCLI
    boring = importlib.import_module(f"{namespace}.demos.boring_classes")
    for config in sorted(folder.glob("*.yaml")):
        sources = [config]
        try:
            if (again := config.with_suffix(".printed")).exists():
                sources.append(again)
                with again.open("w") as file, contextlib.redirect_stdout(file):
                    arguments = ["fit", f"--config={config}", "--print_config"]
                    with contextlib.suppress(SystemExit):
                        cli(boring.BoringModel, boring.BoringDataModule, args=arguments)
            for source in sources:
                run = cli(
                    boring.BoringModel,
                    boring.BoringDataModule,
                    args=["fit", f"--config={source}"],
                    save_config_kwargs={"config_filename": f"{source.name}.saved"},
                )
                run.trainer.save_checkpoint(f"{source}.ckpt")
        except Exception:
            config.with_suffix(".error").write_text(traceback.format_exc())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
