"""The 1,797 digits of scikit-learn in the format of MNIST: 28x28 pixels, the same four files.

    python experiments/transfer/digits28.py digits28

They are scaled to 20x20 pixels and stand in the middle of 28x28, as MNIST's do; 1,000 for training
and validation, 797 for test, split at random by a fixed seed.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import interpolate, pad

TEST = 797
SEED = 0


def scaled(images: Tensor) -> Tensor:
    """8x8 pixels of 0 to 16 as 28x28 bytes."""
    large = interpolate(images.float().unsqueeze(1), size=20, mode="bilinear").squeeze(1)
    return pad(large * 255 / 16, [4] * 4).round().to(torch.uint8)


def idx(tensor: Tensor) -> bytes:
    """Bytes in the format of MNIST: a magic number, the sizes, the data."""
    return struct.pack(f">4B{tensor.dim()}I", 0, 0, 8, tensor.dim(), *tensor.shape) + bytes(
        tensor.numpy().tobytes()
    )


def main(folder: Path) -> None:
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(SEED))
    images = scaled(torch.from_numpy(digits.images))[order]
    labels = torch.from_numpy(digits.target).to(torch.uint8)[order]
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, chosen in (("t10k", slice(TEST)), ("train", slice(TEST, None))):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images[chosen]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels[chosen]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
