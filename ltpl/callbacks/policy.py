"""`Policy`: what goes back, and what goes on, after a pruning."""

from __future__ import annotations

from enum import Enum


class Policy(str, Enum):
    """What happens after a pruning.

    `rewind` takes weights, buffers, optimiser and schedule back; `lr_rewind` only optimiser and
    schedule (Renda et al., 2020); `finetune` keeps the weights and the last learning rate;
    `reinit` draws new weights under the mask and restarts; `continue` changes nothing.
    """

    rewind = "rewind"
    lr_rewind = "lr_rewind"
    finetune = "finetune"
    reinit = "reinit"
    continue_ = "continue"
