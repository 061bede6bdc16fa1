"""What a mask keeps of the layer that sees the input, as a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

SIDE = 320  # pixels, about
EDGE = 2  # pixels
LARGEST = 2048  # cells of a side; a larger picture shows nothing
FRAME = (0.30, 0.42, 0.60)  # neither a grey nor one of the colours of channels


def picture(keep: Tensor) -> Tensor | None:
    """Return what is kept of a first layer as an image: white is kept, black is pruned.

    Kernels of a convolution stand side by side; three input channels are red, green and blue, of
    other numbers it is the share that is kept. Of a matrix it is how many weights each input keeps,
    in the shape of the image if inputs are a square of pixels (784, 3 x 1024); else the matrix
    itself, an output a row. The brightest cell keeps the most.

    Args:
        keep: What is kept: a matrix, or kernels of one or two dimensions.

    Returns:
        Bytes: red, green and blue; rows; columns. None if there is no picture of it.

    Example:
        >>> picture(torch.ones(6, 1, 5, 5, dtype=torch.bool)).shape
        torch.Size([3, 202, 310])
    """
    tiles = _tiles(keep.detach().cpu()) if keep.numel() else None
    if tiles is None:
        return None
    shares = tiles / tiles.max().clamp(min=1e-12)
    cells = _side_by_side(shares.expand(-1, 3, -1, -1))
    if max(cells.shape) > LARGEST:
        return None
    cell = max(1, SIDE // max(cells.shape))
    image = _framed(cells.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2), EDGE, EDGE)
    return (255 * image).round().to(torch.uint8)


def _tiles(keep: Tensor) -> Tensor | None:
    """Return what is drawn side by side: number, colours, rows, columns."""
    if keep.dim() in (3, 4):
        kernels = keep.float() if keep.dim() == 4 else keep.float().unsqueeze(2)
        return kernels if kernels.shape[1] == 3 else kernels.mean(1, keepdim=True)
    if keep.dim() != 2:
        return None
    inputs = keep.shape[1]
    for colours in (1, 3):
        side = math.isqrt(inputs // colours)
        if side > 1 and colours * side * side == inputs:
            return keep.float().sum(0).view(1, colours, side, side)
    return keep.float()[None, None]


def _side_by_side(tiles: Tensor) -> Tensor:
    """Return tiles in rows, as square as they go, a frame between them."""
    across = math.ceil(math.sqrt(len(tiles) * tiles.shape[2] / tiles.shape[3]))
    across = min(across, len(tiles))
    down = math.ceil(len(tiles) / across)
    spaced = _framed(tiles, 0, 1)
    empty = _frame(tiles).expand(down * across - len(tiles), *spaced.shape[1:])
    rows, columns = spaced.shape[2:]
    grid = torch.cat([spaced, empty]).view(down, across, 3, rows, columns)
    return grid.permute(2, 0, 3, 1, 4).reshape(3, down * rows, across * columns)[:, :-1, :-1]


def _framed(image: Tensor, before: int, after: int) -> Tensor:
    inside = pad(torch.ones_like(image), (before, after, before, after))
    around = pad(image, (before, after, before, after))
    return torch.where(inside > 0, around, _frame(image))


def _frame(image: Tensor) -> Tensor:
    return image.new_tensor(FRAME).view(3, 1, 1)
