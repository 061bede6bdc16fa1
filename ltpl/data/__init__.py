"""LightningDataModules."""

from ltpl.data.digits import Digits
from ltpl.data.images import MNIST

__all__ = ["MNIST", "Digits"]
