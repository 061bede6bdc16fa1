"""The distances between the masks of all epochs, as a picture and as a file of numbers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltpl.callbacks.board import boards, log_step
from ltpl.masks.errors import check_folder_name
from ltpl.masks.files import whole_file
from ltpl.masks.stability import random_distance
from ltpl.masks.watch import Watch

SIDE = 320  # pixels, about; a cell never has fewer than CELL
CELL = 4
NEAR_TO_FAR = ((253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (68, 1, 84))
MARK = (220, 20, 60)


def picture(distances: Tensor, full: float, found: int | None = None) -> Tensor:
    """Return distances as an image: yellow is near, violet is far, red marks what was found.

    The first mask is at the top left. Cells are squares of several pixels. Colours go with the
    square root of the distance, so that small ones, which decide, are told apart.

    Args:
        distances: Of each mask to each.
        full: The distance that is as violet as it gets, that of random masks say; fixed, so that
            pictures of different epochs compare.
        found: Number of the mask that was found; its place on the diagonal is red.

    Returns:
        Bytes: red, green and blue; rows; columns.

    Example:
        >>> picture(torch.tensor([[0.0, 0.5], [0.5, 0.0]]), full=0.5).shape
        torch.Size([3, 320, 320])
    """
    colours = torch.tensor(NEAR_TO_FAR, dtype=torch.double)
    place = (distances / full).clamp(0, 1).sqrt() * (len(colours) - 1)
    below = place.floor().long().clamp(max=len(colours) - 2)
    way = (place - below).unsqueeze(-1)
    cells = (colours[below] * (1 - way) + colours[below + 1] * way).round().to(torch.uint8)
    if found is not None:
        cells[found, found] = torch.tensor(MARK, dtype=torch.uint8)
    side = max(CELL, SIDE // max(1, len(cells)))
    image = cells.repeat_interleave(side, dim=0).repeat_interleave(side, dim=1)
    return image.permute(2, 0, 1).contiguous()


class Record:
    """What a watch measures, shown and written.

    Args:
        name: Of the tags and of the file, `NAME.json`.
    """

    def __init__(self, name: str):
        self.name = check_folder_name("name", name)
        self.folder = Path()
        self.file: str | None = None
        self._shown: dict[float, int] = {}

    def write(self, trainer: Any, watch: Watch) -> None:
        """Write all distances beside the logs, whole or not at all.

        A resumed fit goes on with its file; that of another fit is left alone.
        """
        if self.file is None or Path(self.file).parent != self.folder:
            self.file = str(trainer.strategy.broadcast(str(_free(self.folder, self.name))))
        if trainer.is_global_zero:
            with whole_file(self.file) as beside:
                beside.write_text(json.dumps(watch.numbers()) + "\n")

    def show(self, trainer: Any, watch: Watch, *amounts: float) -> None:
        """Hand the distances of amounts as pictures to TensorBoard, if there are new ones.

        Other loggers are left alone.
        """
        for amount in amounts:
            history = watch[amount].history
            if len(history.epochs) < 2 or self._shown.get(amount) == len(history.epochs):
                continue
            self._shown[amount] = len(history.epochs)
            found = watch[amount].found
            place = history.epochs.index(found) if found in history.epochs else None
            image = picture(history.distances, random_distance(amount), place)
            for logger in boards(trainer):
                tag = f"{self.name}/distances/{amount}"
                logger.experiment.add_image(tag, image, log_step(trainer))


def _free(folder: Path, name: str) -> Path:
    for number in itertools.count():
        path = folder / (f"{name}-v{number}.json" if number else f"{name}.json")
        if not path.exists():
            return path
    raise AssertionError
