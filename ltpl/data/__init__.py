"""LightningDataModules."""

from ltpl.data.digits import Digits
from ltpl.data.folder import ImageFolder
from ltpl.data.graphs import KarateClub, Planetoid, StochasticBlockModel
from ltpl.data.images import CIFAR10, CIFAR100, MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "KarateClub",
    "Planetoid",
    "StochasticBlockModel",
]
