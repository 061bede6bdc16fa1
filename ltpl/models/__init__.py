"""Networks as plain `nn.Module`s. Each states its output layer."""

from ltpl.models.lenet import LeNet300
from ltpl.models.mlp import MLP

__all__ = ["MLP", "LeNet300"]
