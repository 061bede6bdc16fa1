"""torchvision's residual networks, with a stem for large or for small images."""

from __future__ import annotations

import importlib

from torch import Tensor, nn

from ltpl.models.initialise import undrawn
from ltpl.models.network import Network
from ltpl.models.options import one_of, whole

DEPTHS = (18, 34, 50)
STEMS = {"imagenet": (7, 2, 3), "cifar": (3, 1, 1)}  # kernel, stride and padding


class ImageNetResNet(Network):
    """ResNet-18, 34 or 50 as in torchvision, under its names, so that its checkpoints load.

    He et al. (2016), Deep residual learning, table 1. The stem of the paper, a convolution of 7x7
    with stride 2 and a max pool, leaves 8x8 pixels of an image of 32x32; `cifar` is a convolution
    of 3x3 with stride 1, and no pool. With 1000 classes 11,689,512, 21,797,672 and 25,557,032
    parameters.

    Args:
        depth: Number of layers: 18, 34 or 50.
        stem: `imagenet` or `cifar`.
        inputs: Channels of the image.
        outputs: Number of classes.
        init: How weights are drawn: kaiming_normal, glorot_normal, orthogonal or default, which
            is that of single layers. None is torchvision's, kaiming_normal by the outputs.
        gamma: Start of BatchNorm's scales: a number above 0, or `uniform` for draws in [0, 1).

    Raises:
        ValueError: If torchvision is not installed, a name or depth is unknown, or a number is out
            of range.

    Example:
        >>> sum(p.numel() for p in ImageNetResNet(stem="cifar").parameters())
        11173962
    """

    output_layer = "fc"

    def __init__(
        self,
        depth: int = 18,
        stem: str = "imagenet",
        inputs: int = 3,
        outputs: int = 10,
        init: str = "kaiming_normal",
        gamma: float | str = 1.0,
    ):
        super().__init__()
        self.init = init
        self.gamma = gamma
        one_of("depth", depth, DEPTHS)
        one_of("stem", stem, STEMS)
        whole("inputs", inputs)
        whole("outputs", outputs)
        try:
            models = importlib.import_module("torchvision.models")
        except ModuleNotFoundError as error:
            raise ValueError(
                "ImageNetResNet is torchvision's, which is not installed: pip install torchvision"
            ) from error
        with undrawn(self):
            theirs = getattr(models, f"resnet{depth}")(weights=None, num_classes=outputs)
            for name, child in theirs.named_children():
                self.add_module(name, child)
            self.conv1 = nn.Conv2d(inputs, 64, *STEMS[stem], bias=False)
            if stem == "cifar":
                self.maxpool = nn.Identity()
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        *features, output = self.children()
        for layer in features:
            x = layer(x)
        logits: Tensor = output(x.flatten(1))
        return logits
