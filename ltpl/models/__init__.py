"""Networks as plain `nn.Module`s. Each states its output layer."""

from ltpl.models.conv import ConvNet
from ltpl.models.densenet import DenseNet
from ltpl.models.graph import GAT, GCN, GIN, GraphSAGE
from ltpl.models.imagenet_resnet import ImageNetResNet
from ltpl.models.lenet import LeNet5, LeNet300
from ltpl.models.mlp import MLP
from ltpl.models.network import Network
from ltpl.models.preresnet import PreResNet
from ltpl.models.resnet import ResNet
from ltpl.models.vgg import VGG

__all__ = [
    "GAT",
    "GCN",
    "GIN",
    "MLP",
    "VGG",
    "ConvNet",
    "DenseNet",
    "GraphSAGE",
    "ImageNetResNet",
    "LeNet5",
    "LeNet300",
    "Network",
    "PreResNet",
    "ResNet",
]
