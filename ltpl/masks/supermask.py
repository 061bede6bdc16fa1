"""Supermasks: a mask is trained, by a score for each weight, and the weights are not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.masks.mask import Mask
from ltpl.masks.threshold import Scores, keep_highest

SPREAD = 0.01  # of the first scores: hardly one is preferred, and half of them are above zero


class ScoredWeights:
    """Weights that stay as they are, each with a score that is trained in its place.

    The live parameters hold the product of weight and mask, so that nothing else has to know.

    Args:
        parameters: The live parameters by name; what they hold now are the weights.
        sampled: Whether the mask of a training step is drawn, one with probability sigmoid(score);
            otherwise it is that of `settle_`.
        drawn: Whether the mask of `settle_` is one such draw, ever from the same random numbers;
            otherwise it keeps the scores above zero.
        amount: Share of each parameter that it leaves out instead, those of the lowest scores.
        rescale: Whether what is kept is multiplied by total / kept of its parameter.
        seeds: What the first scores and all draws depend on.

    Example:
        >>> layer = nn.Linear(4, 1, bias=False)
        >>> scored = ScoredWeights({"weight": layer.weight}, amount=0.5)
        >>> scored.draw_()
        >>> layer(torch.ones(1, 4)).sum().backward()
        >>> scored.collect_()
        >>> scored.settle_()
        >>> layer.weight.grad is None, scored.scores["weight"].grad.shape, scored.mask.density
        (True, torch.Size([1, 4]), 0.5)
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        sampled: bool = True,
        drawn: bool = True,
        amount: float | None = None,
        rescale: bool = False,
        seeds: tuple[int, ...] = (0,),
    ):
        self.parameters = dict(parameters)
        self.sampled = sampled
        self.amount = amount
        self.rescale = rescale
        self.seeds = seeds
        self.drawn = 0
        self.weights = {name: p.detach().clone() for name, p in parameters.items()}
        self._scaled = self.weights
        chance = _generator(torch.device("cpu"), "scores", *seeds)
        self.scores = {
            name: (SPREAD * torch.randn(p.shape, generator=chance)).to(p.device).requires_grad_()
            for name, p in parameters.items()
        }
        self._bars = {name: p.new_zeros(()) for name, p in self.scores.items()}
        if drawn:
            self._bars = {
                name: torch.rand(p.shape, generator=chance).logit().to(p.device)
                for name, p in parameters.items()
            }

    @property
    def mask(self) -> Mask:
        """The fixed mask."""
        return Mask(self._kept())

    @property
    def density(self) -> Tensor:
        """Share of the weights that the fixed mask keeps; nothing waits for the device."""
        kept = self._kept().values()
        total = sum(keep.numel() for keep in kept)
        return torch.stack([keep.sum() for keep in kept]).sum() / total

    @torch.no_grad()
    def draw_(self) -> None:
        """Let the parameters be what a training step sees."""
        if not self.sampled:
            self.settle_()
            return
        device = next(iter(self.scores.values())).device
        chance = _generator(device, self.drawn, *self.seeds)
        self.drawn += 1
        mask = {}
        for name, score in self.scores.items():
            draw = torch.rand(score.shape, generator=chance, device=device)
            mask[name] = draw < score.sigmoid()
        self._write(mask)

    @torch.no_grad()
    def settle_(self) -> None:
        """Let the parameters be the weights under the fixed mask."""
        self._write(self._kept())

    def _kept(self) -> dict[str, Tensor]:
        scores = {name: score.detach() for name, score in self.scores.items()}
        if self.amount is None:
            return {name: score > self._bars[name] for name, score in scores.items()}
        kept = {}
        for name, score in scores.items():
            number = max(1, score.numel() - round(self.amount * score.numel()))
            ranked = Scores(name, (score.flatten(),), torch.Tensor.clone)
            kept[name] = keep_highest([ranked], number)[0].view(score.shape)
        return kept

    def _write(self, mask: Mapping[str, Tensor]) -> None:
        self._scaled = self.weights
        if self.rescale:
            self._scaled = {
                name: weight * (weight.numel() / mask[name].sum().clamp_min(1))
                for name, weight in self.weights.items()
            }
        for name, parameter in self.parameters.items():
            parameter.copy_(self._scaled[name] * mask[name])

    def collect_(self) -> None:
        """Turn the gradients of the parameters into those of the scores, which add up.

        The gradient of the mask goes straight through to sigmoid(score); the factor of `rescale`
        counts as a constant. The parameters have none afterwards.
        """
        for name, parameter in self.parameters.items():
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None:
                with torch.enable_grad():
                    seen = self._scaled[name].float() * self.scores[name].sigmoid()
                torch.autograd.backward(seen, gradient.to(seen.dtype))

    def state_dict(self) -> dict[str, Any]:
        """Return weights, scores, and how many masks were drawn."""
        scores = {name: score.detach() for name, score in self.scores.items()}
        return {"weights": self.weights, "scores": scores, "drawn": self.drawn}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.drawn = state["drawn"]
        for name, parameter in self.parameters.items():
            self.weights[name] = state["weights"][name].to(parameter.device)
            self.scores[name].copy_(state["scores"][name])


def _generator(device: torch.device, *seeds: object) -> torch.Generator:
    digest = hashlib.sha256(repr(seeds).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:4], "big"))
