"""CIFAR-10 as image files, `train/<class>/<n>.png` and `test/<class>/<n>.png`.

    python experiments/resnet20_images/cifar10_images.py data cifar10-images

Reads what torchvision keeps in the first folder, and downloads it if it is not there. Files are
lossless.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torchvision.datasets import CIFAR10


def main(source: Path, target: Path) -> None:
    for part in ("train", "test"):
        data = CIFAR10(source, train=part == "train", download=True)
        for number, (image, label) in enumerate(data):
            path = target / part / data.classes[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
