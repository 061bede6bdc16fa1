"""Labels in a batch, whatever kind of batch it is; to say how often a teacher is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ltpl.distillation.soft_labels import decided

NAMES = ("labels", "label", "y", "targets", "target")


def labels_of(batch: Any) -> Tensor | None:
    """Return the labels of a batch: its second part, or what is called so; None if nothing is."""
    found: Any = None
    if isinstance(batch, Mapping):
        found = next((batch[name] for name in NAMES if name in batch), None)
    elif isinstance(batch, (list, tuple)):
        found = batch[1] if len(batch) > 1 else None
    else:
        found = getattr(batch, "y", None)
    return found if isinstance(found, Tensor) else None


def nodes_of(batch: Any, stage: str) -> Tensor | None:
    """Return the nodes of a graph that a stage is about; None if the batch marks none.

    Args:
        batch: A batch; of a sampled part of a graph, the first `batch_size` nodes count.
        stage: `train` or `val`.
    """
    mask = getattr(batch, f"{stage}_mask", None)
    if isinstance(size := getattr(batch, "batch_size", None), int) and hasattr(batch, "n_id"):
        return torch.arange(size, device=batch.n_id.device)
    return mask.nonzero().flatten() if isinstance(mask, Tensor) and mask.dim() == 1 else None


def right(
    logits: Tensor, labels: Tensor | None, nodes: Tensor | None, binary: bool
) -> tuple[Tensor, Tensor] | None:
    """Return how many of the labels logits give, and of how many; None if they cannot be compared.

    Args:
        logits: A row for each label; or yes-or-no outputs.
        labels: Class numbers, negative ones unknown; or yes and no.
        nodes: The rows that count; all of them if not given.
        binary: Whether the outputs are yes or no.
    """
    if labels is None or labels.numel() != (logits if binary else logits[..., 0]).numel():
        return None
    decisions, wanted = decided(logits, binary).flatten(), labels.flatten()
    if binary:
        wanted = wanted > 0.5
    elif wanted.is_floating_point():
        return None
    known = torch.ones_like(decisions, dtype=torch.bool) if binary else wanted >= 0
    hit = (decisions == wanted) & known
    if nodes is not None:
        hit, known = hit[nodes], known[nodes]
    return hit.sum(), known.sum()
