"""What a teacher has said before: kept where the very same inputs come again.

A kept answer is right only if the student sees what the teacher saw. So answers are found by their
inputs, never by the number of a batch: by the tensors themselves (a whole graph, epoch after
epoch), or, if asked for, by the content of each sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ltpl.distillation.capture import Call, tensors
from ltpl.distillation.teacher import Heard, output_of

ENOUGH = 0.1  # share of known samples in the second epoch, below which inputs are not the same


class SameTensors:
    """Keeps the last answer while the very same, unchanged tensors come again."""

    def __init__(self, ask: Callable[[Call], Heard]):
        self._ask = ask
        self._key: list[Any] | None = None
        self._tensors: list[Tensor] = []  # held, so that no others take their place in memory
        self._answer: Heard

    def __call__(self, call: Call) -> Heard:
        """Return what the teacher says to a call."""
        given = tensors((call.args, call.kwargs))
        key = [part for tensor in given for part in identity(tensor)]
        if self._key is None or key != self._key:
            self._answer = self._ask(call)
            self._key, self._tensors = key, given
        return self._answer

    def ends_epoch(self) -> None:
        """Nothing is to be done."""


class SameSamples:
    """Keeps an answer for each sample, found by a 128-bit fingerprint of its content.

    Args:
        ask: The teacher.
        output: Place, key or attribute of the logits among what it says.
    """

    def __init__(self, ask: Callable[[Call], Heard], output: int | str | None):
        self._ask = ask
        self._output = output
        self._place: dict[tuple[int, int], int] = {}
        self._answers: Tensor | None = None
        self._again = False
        self._known = self._seen = 0

    def __call__(self, call: Call) -> Heard:
        """Return what the teacher says to a call.

        Raises:
            ValueError: If samples cannot be told apart, or are others in every epoch.
        """
        given = tensors((call.args, call.kwargs))
        if len(given) != 1 or given[0].layout != torch.strided or given[0].dim() < 2:
            raise ValueError(
                "cache=True keeps answers by sample, and needs a network that is called with one "
                f"tensor of samples, not with {len(given)}; whole graphs are kept without it."
            )
        prints = [tuple(row) for row in fingerprints(given[0]).tolist()]
        new = [number for number, each in enumerate(prints) if each not in self._place]
        self._count(len(prints) - len(new), len(prints))
        if new:
            self._learn(call, prints, new)
        assert self._answers is not None
        places = torch.tensor([self._place[each] for each in prints], device=self._answers.device)
        return Heard(self._answers[places], {})

    def ends_epoch(self) -> None:
        """Know that every sample has been seen once."""
        self._again = True

    def _count(self, known: int, seen: int) -> None:
        if not self._again:
            return
        self._known, self._seen = self._known + known, self._seen + seen
        if self._known < ENOUGH * self._seen:
            raise ValueError(
                f"cache=True: {self._seen - self._known:,} of {self._seen:,} samples were not seen "
                "in the epochs before; they are augmented or drawn anew, so the teacher must see "
                "each one. Set cache=False."
            )

    def _learn(self, call: Call, prints: list[Any], new: list[int]) -> None:
        answers = output_of(self._ask(call).output, self._output)
        if answers.shape[0] != len(prints):
            raise ValueError(
                f"cache=True: the teacher gives {answers.shape[0]} outputs for {len(prints)} "
                "samples, and one for each is needed. Set cache=False."
            )
        if self._answers is None:
            self._must_be_independent(call, answers)
            self._answers = torch.empty_like(answers)
        begin = len(self._place)
        firsts = {prints[number]: number for number in new}
        while begin + len(firsts) > len(self._answers):
            self._answers = torch.cat([self._answers, torch.empty_like(self._answers)])
        self._answers[begin : begin + len(firsts)] = answers[list(firsts.values())]
        self._place.update(zip(firsts, range(begin, begin + len(firsts)), strict=True))

    def _must_be_independent(self, call: Call, answers: Tensor) -> None:
        """Refuse a teacher whose answer to a sample depends on the others of the batch."""
        half = max(1, len(answers) // 2)

        def first(value: Any) -> Any:
            return value[:half] if isinstance(value, Tensor) else value

        args = tuple(map(first, call.args))
        kwargs = {name: first(value) for name, value in call.kwargs.items()}
        alone = output_of(self._ask(Call(args, kwargs, None, None, {})).output, self._output)
        if not torch.allclose(alone.float(), answers[:half].float(), rtol=1e-2, atol=1e-2):
            raise ValueError(
                "cache=True: what the teacher says to a sample depends on the other samples of the "
                "batch. Set cache=False."
            )


def identity(tensor: Tensor) -> list[Any]:
    """Return what tells whether a tensor is another, or was changed in place."""
    if tensor.layout == torch.sparse_csr:
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    elif tensor.layout == torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]
    else:
        parts = [tensor]
    if tensor.is_inference():  # nobody counts its changes
        return [object()]
    places = [(p.data_ptr(), p.shape, p.stride(), p.dtype, p.device) for p in parts]
    return [*places, *(p._version for p in (tensor, *parts))]


def fingerprints(samples: Tensor) -> Tensor:
    """Return two 64-bit numbers for each row, from all of its bits.

    They are sums of the row's words, each times a random odd number, modulo 2^64.
    """
    rows = samples.detach().contiguous().flatten(1)
    rows = rows.view(torch.int32 if rows.element_size() % 4 == 0 else torch.uint8).long()
    generator = torch.Generator().manual_seed(0)
    size = (rows.shape[1], 2)
    factors = torch.randint(-(2**62), 2**62, size, generator=generator).mul_(2).add_(1)
    factors = factors.to(rows.device)
    return torch.stack([(rows * factors[:, k]).sum(1) for k in (0, 1)], 1)
