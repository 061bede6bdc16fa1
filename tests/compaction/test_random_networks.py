"""Networks drawn at random from a palette of layers: exact, or refused in one line."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from checking import channels, compacted, randomised, units, what_is_known_is_true
from torch import Tensor, nn

from ltpl.compaction import CompactionError

ACTIVATIONS = [F.relu, F.gelu, torch.sigmoid, F.softplus, F.silu, lambda x: x * 2 + 1, lambda x: x]


class Drawn(nn.Module):
    """A few operations, each on what one or two earlier ones made."""

    def __init__(self, draw: random.Random, length: int):
        super().__init__()
        self.steps: list[tuple[str, int, int, int]] = []
        self.layers = nn.ModuleDict()
        widths = [3]
        kinds = (
            "conv conv conv depth group norm act act add mul cat chunk slice pad excite pool move"
        )
        for number in range(length):
            kind = "conv" if number == 0 else draw.choice(kinds.split())
            one = draw.randrange(max(0, len(widths) - 3), len(widths))
            width = widths[one]
            same = [i for i, w in enumerate(widths) if w == width]
            other, extra = draw.choice(same), draw.randrange(len(ACTIVATIONS))
            if kind == "cat":
                other = draw.randrange(len(widths))
            if kind in ("chunk", "group") and width % 2:
                kind = "act"
            new = width
            if kind == "conv":
                new = draw.choice([4, 6, 8])
                padding = draw.choice(["zeros", "circular"])
                layer = nn.Conv2d(width, new, 3, padding=1, padding_mode=padding, bias=extra > 2)
                self.layers[str(number)] = nn.Sequential(layer, nn.BatchNorm2d(new))
            elif kind == "depth":
                new = width * (1 + extra % 2)
                self.layers[str(number)] = nn.Conv2d(width, new, 3, padding=1, groups=width)
            elif kind == "group":
                new = 4
                self.layers[str(number)] = nn.Conv2d(width, new, 1, groups=2)
            elif kind == "norm":
                self.layers[str(number)] = nn.BatchNorm2d(width)
            elif kind == "cat":
                new = width + widths[other]
            elif kind == "chunk":
                new = width // 2
            elif kind == "slice":
                new = max(width - 2, 1)
            elif kind == "pad":
                new = width + 3
            self.steps.append((kind, one, other, extra))
            widths.append(new)
        self.head = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for number, (kind, one, other, extra) in enumerate(self.steps):
            x, y = made[one], made[other]
            if str(number) in self.layers:
                x = self.layers[str(number)](x)
            elif kind == "act":
                x = ACTIVATIONS[extra](x)
            elif kind == "add":
                x = x + y
            elif kind == "mul":
                x = x * y
            elif kind == "cat":
                x = torch.cat([x, y], 1)
            elif kind == "chunk":
                x = x.chunk(2, 1)[extra % 2]
            elif kind == "slice":
                x = x[:, 1:-1] if x.shape[1] > 2 else x[:, :1]
            elif kind == "pad":
                x = F.pad(x, (0, 0, 0, 0, 1, 2))
            elif kind == "excite":
                x = x * x.mean((2, 3), keepdim=True).sigmoid()
            elif kind == "pool":
                x = F.avg_pool2d(x, 3, 1, 1)
            elif kind == "move":
                x = x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2)
            made.append(x)
        return self.head(x.mean((2, 3)))


def one(seed: int) -> str:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    net = randomised(Drawn(draw, draw.randrange(3, 10)))
    example = (torch.randn(2, 3, 5, 5),)
    if draw.random() < 0.3:
        mask = units(net, example, draw.random())
    else:
        mask = channels(net, draw.random(), beta=draw.random() < 0.5)
    what_is_known_is_true(net, mask, example)
    try:
        compacted(net, mask, example)
    except CompactionError as error:
        said = str(error)
    else:
        return "exact"
    assert not any(words in said for words in ("differs", "cannot run", "\n")), said
    return "refused"


def many(count: int) -> None:
    results = []
    for _ in range(count):
        seed = random.SystemRandom().randrange(2**31)
        try:
            results.append(one(seed))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    assert results.count("exact") > 0.9 * count


def test_random_networks() -> None:
    many(15)


@pytest.mark.slow
def test_many_random_networks() -> None:
    many(600)
