"""The classes that ours derive from: of `pytorch_lightning` and of `lightning.pytorch` alike.

A project uses one of the two packages, and its Trainer and command line accept only subclasses of
that package's classes. Ours are subclasses of both wherever both are there. The second package is
imported only if it may be meant: it is loaded already, or neither is.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from ltpl.masks.errors import checked

if TYPE_CHECKING:
    from pytorch_lightning import Callback
    from pytorch_lightning.callbacks import Checkpoint
    from pytorch_lightning.loggers import Logger
else:
    _first_loaded = "pytorch_lightning" in sys.modules
    _may_be_meant = "lightning.pytorch" in sys.modules or not _first_loaded

    from pytorch_lightning import Callback
    from pytorch_lightning.callbacks import Checkpoint
    from pytorch_lightning.loggers import Logger

    _OtherCallback = object
    if _may_be_meant and importlib.util.find_spec("lightning") is not None:
        from lightning.pytorch import Callback as _OtherCallback
        from lightning.pytorch.callbacks import Checkpoint as _OtherCheckpoint
        from lightning.pytorch.loggers import Logger as _OtherLogger

        class Checkpoint(Checkpoint, _OtherCheckpoint):
            """A callback that saves, and so runs last, in a Trainer of either package."""

        class Logger(Logger, _OtherLogger):
            """A logger for a Trainer of either package."""

    class Callback(Callback, _OtherCallback):
        """A callback for a Trainer of either package."""

        def __init_subclass__(cls, **kwargs: Any) -> None:
            """Let ours refuse options of a wrong type when they are made, not inside torch."""
            super().__init_subclass__(**kwargs)
            if "__init__" in vars(cls) and cls.__module__.startswith("ltpl."):
                cls.__init__ = checked(cls.__init__)


__all__ = ["Callback", "Checkpoint", "Logger"]
