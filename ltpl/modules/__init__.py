"""LightningModules that wrap any network."""

from ltpl.modules.image import ImageClassifier

__all__ = ["ImageClassifier"]
