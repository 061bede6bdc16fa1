"""Random crops and flips of whole batches, drawn from a seed, the epoch and the sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ltpl.data.order import generator

KIND = 1  # of chance, beside the order


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Return each image shifted by its own offset and mirrored where its flag says so.

    The same as torchvision's `pad` with zeros, `crop` to the old size and `hflip`, image by image.

    Args:
        images: A batch of images, `[N, C, H, W]`.
        top: First row of each crop in the padded image, 0 to twice the padding.
        left: First column of each crop, likewise.
        flip: Which images are mirrored.
        padding: Zeros added at each side.

    Example:
        >>> one = torch.tensor([[[[1, 2], [3, 4]]]])
        >>> zero, yes = torch.zeros(1, dtype=torch.int64), torch.tensor([True])
        >>> crop_and_flip(one, zero, zero, yes, padding=1).tolist()
        [[[[0, 0], [1, 0]]]]
    """
    count, channels, height, width = images.shape
    device = images.device
    padded = pad(images, [padding] * 4)
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + left[:, None]
    # one gather for both: half the time of taking windows of a view, a third less than a loop
    places = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]
    places = places.view(count, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, places).view(images.shape)


@dataclass(frozen=True)
class Augmentation:
    """Crops after padding, and mirroring of every second image: that of He et al. (2015) by 4.

    Args:
        crop: Zeros added at each side before a crop to the old size; 0 for no crops.
        flip: Whether half of the images are mirrored left to right.
    """

    crop: int = 0
    flip: bool = False

    def __bool__(self) -> bool:
        return bool(self.crop or self.flip)

    def draws(self, samples: int, seed: int, epoch: int) -> Tensor:
        """Return what happens to each sample in an epoch: row, column and flip in one number.

        It does not depend on the batch in which a sample comes, nor on the process.
        """
        choices = 2 * (2 * self.crop + 1) ** 2
        return torch.randint(choices, (samples,), generator=generator(seed, epoch, KIND))

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return the images as the draws of their samples have it."""
        shifts = 2 * self.crop + 1
        place, flip = draws // 2, draws % 2 == 1
        return crop_and_flip(images, place // shifts, place % shifts, flip & self.flip, self.crop)
