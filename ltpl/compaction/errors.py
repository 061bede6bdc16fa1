"""What compaction says when it does not go on."""

from __future__ import annotations


class CompactionError(ValueError):
    """The network cannot be made smaller exactly; nothing was changed."""
