"""LightningModules that wrap any network, and the papers' schedules."""

from ltpl.modules.image import ImageClassifier
from ltpl.modules.node import NodeClassifier
from ltpl.modules.schedules import WarmupDrops

__all__ = ["ImageClassifier", "NodeClassifier", "WarmupDrops"]
