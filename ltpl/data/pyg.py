"""torch-geometric, imported when a graph is wanted."""

from __future__ import annotations

import importlib
import warnings
from typing import Any


def of_pyg(module: str) -> Any:
    """Return a module of PyG.

    Args:
        module: Its name, `torch_geometric` left out.

    Raises:
        ValueError: If torch-geometric is not installed.
    """
    try:
        with warnings.catch_warnings():  # PyG 2.8 uses torch.jit, of which torch 2.15 warns
            warnings.filterwarnings("ignore", "`torch.jit")
            return importlib.import_module(f"torch_geometric.{module}")
    except ModuleNotFoundError as error:
        raise ValueError(
            "Graphs come as torch-geometric's Data, which is not installed: "
            "pip install torch-geometric"
        ) from error
