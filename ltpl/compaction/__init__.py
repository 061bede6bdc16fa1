"""Compaction: pruned channels and neurons are really removed, and the result is proven equal."""

from ltpl.compaction.compact import compact
from ltpl.compaction.errors import CompactionError
from ltpl.compaction.live import compact_
from ltpl.compaction.store import load, save

__all__ = ["CompactionError", "compact", "compact_", "load", "save"]
