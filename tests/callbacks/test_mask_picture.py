from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltpl.callbacks.mask_picture import EDGE, FRAME, picture


def cells(image: Tensor, rows: int, columns: int) -> Tensor:
    """The colour of each cell, from its middle."""
    inside = image[:, EDGE:-EDGE, EDGE:-EDGE].float() / 255
    high, wide = inside.shape[1] // rows, inside.shape[2] // columns
    assert high == wide
    assert inside.shape[1:] == (high * rows, wide * columns)
    return inside[:, high // 2 :: high, wide // 2 :: wide]


def test_kernels_stand_side_by_side_in_frames() -> None:
    keep = torch.rand(6, 1, 3, 3) < 0.5
    keep[0] = True
    shown = cells(picture(keep), 2 * 4 - 1, 3 * 4 - 1)
    for number, kernel in enumerate(keep[:, 0]):
        top, left = divmod(number, 3)
        tile = shown[:, 4 * top : 4 * top + 3, 4 * left : 4 * left + 3]
        assert torch.equal(tile, kernel.float().expand(3, 3, 3))
    frame = torch.tensor(FRAME).view(3, 1)
    assert torch.allclose(shown[:, 3], frame.expand(3, 11), atol=0.01)


def test_three_input_channels_are_colours_and_more_are_shares() -> None:
    keep = torch.rand(1, 3, 3, 3) < 0.5
    keep[0, 0, 0, 0] = True
    assert torch.equal(cells(picture(keep), 3, 3), keep[0].float())
    many = torch.rand(1, 8, 3, 3) < 0.5
    many[0, :, 1, 1] = True
    shares = many[0].float().mean(0).expand(3, 3, 3)
    assert torch.allclose(cells(picture(many), 3, 3), shares, atol=0.003)
    line = torch.rand(1, 8, 5) < 0.5
    line[0, :, 2] = True
    assert torch.allclose(cells(picture(line), 1, 5)[0, 0], line[0].float().mean(0), atol=0.003)


@pytest.mark.parametrize("colours", [1, 3])
def test_a_matrix_over_square_images_shows_what_each_pixel_keeps(colours: int) -> None:
    keep = torch.rand(20, colours * 16) < 0.3
    keep[:3, 5] = True
    kept = keep.sum(0).float().view(colours, 4, 4).expand(3, 4, 4)
    assert torch.allclose(cells(picture(keep), 4, 4), kept / kept.max(), atol=0.003)


def test_another_matrix_is_shown_as_it_is() -> None:
    keep = torch.rand(5, 7) < 0.5
    keep[0, 0] = True
    assert torch.equal(cells(picture(keep), 5, 7), keep.float().expand(3, 5, 7))


def test_where_nothing_can_be_shown_there_is_no_picture() -> None:
    for shape in ((3,), (2, 2, 3, 3, 3), (0, 4), (2, 5000)):
        assert picture(torch.ones(shape, dtype=torch.bool)) is None
    assert cells(picture(torch.zeros(4, 5, dtype=torch.bool)), 4, 5).count_nonzero() == 0
