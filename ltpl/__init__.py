"""Lottery tickets for PyTorch Lightning: find the sparse subnetwork, prove it, use it."""

__version__ = "0.1.0"
