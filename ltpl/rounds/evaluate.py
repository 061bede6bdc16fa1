"""What a network of a round measures: on validation data, on test data, or where it was pruned."""

from __future__ import annotations

from typing import Any

from ltpl.masks.mask import Mask
from ltpl.rounds.experiment import Parts
from ltpl.rounds.ranks import averaged


def validated(parts: Parts) -> dict[str, float]:
    """Return the validation metrics of the module as it is; none without validation data."""
    if not _has(parts, "validation_step", "val_dataloader"):
        return {}
    return _flat(parts.trainer.validate(parts.module, parts.data, verbose=False))


def tested(parts: Parts) -> dict[str, float]:
    """Return the test metrics of the module as it is; none without test data."""
    if not _has(parts, "test_step", "test_dataloader"):
        return {}
    return _flat(parts.trainer.test(parts.module, parts.data, verbose=False))


def validated_as_pruned(parts: Parts, mask: Mask) -> dict[str, float]:
    """Return the validation metrics of a mask over the weights that the module has; log nothing.

    Args:
        parts: A round whose module has the trained weights; its weights are pruned.
        mask: What is kept.
    """
    mask.apply_(parts.module)
    loggers, parts.trainer.loggers = parts.trainer.loggers, []
    try:
        return validated(parts)
    finally:
        parts.trainer.loggers = loggers


def _flat(found: Any) -> dict[str, float]:
    """Return the metrics of all loaders; nothing where Lightning had no batch to look at."""
    return averaged({name: float(value) for each in found or [] for name, value in each.items()})


def _has(parts: Parts, step: str, loader: str) -> bool:
    """Whether there is a way to evaluate, and something to evaluate on."""
    sources = [source for source in (parts.module, parts.data) if source is not None]
    return _own(parts.module, step) and any(_own(source, loader) for source in sources)


def _own(instance: Any, method: str) -> bool:
    """Whether a method is the project's own, not the one that Lightning declares."""
    where = getattr(type(instance), method).__module__
    return not where.startswith(("pytorch_lightning.core.", "lightning.pytorch.core."))
