"""The `Callback` that our classes derive from: of `pytorch_lightning` and of `lightning.pytorch`.

A project uses one of the two packages, and its command line accepts only subclasses of that
package's `Callback`. Ours are subclasses of both wherever both are there. The second package is
imported only if it may be meant: it is loaded already, or neither is.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning import Callback
else:
    _first_loaded = "pytorch_lightning" in sys.modules
    _may_be_meant = "lightning.pytorch" in sys.modules or not _first_loaded

    from pytorch_lightning import Callback

    if _may_be_meant and importlib.util.find_spec("lightning") is not None:
        from lightning.pytorch import Callback as _OtherCallback

        class Callback(Callback, _OtherCallback):
            """A callback for a Trainer of either package."""


__all__ = ["Callback"]
