"""A class of a user, with arguments, for a process that imports nothing else."""

from __future__ import annotations

from torch import Tensor, nn


class Small(nn.Module):
    def __init__(self, width: int, outputs: int = 3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3)
        )
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x)).relu().mean((2, 3)))


def not_a_network(width: int) -> None:
    raise AssertionError("this must never run")
