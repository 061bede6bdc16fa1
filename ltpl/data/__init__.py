"""LightningDataModules."""

from ltpl.data.digits import Digits

__all__ = ["Digits"]
