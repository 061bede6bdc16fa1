"""Is there still a way through the network? A layer that is empty, or cut off, learns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.masks.mask import Mask
from ltpl.masks.saliency import absolute, borrowed, first_tensor, model_inputs
from ltpl.masks.select import named_parameters


def live_path(model: nn.Module, mask: Mask, batch: Any) -> bool:
    """Say whether any path of kept weights leads from the input to the output.

    A network without biases, whose kept weights are random positive numbers, is fed with random
    positive numbers: if zeros give another output, something arrived, and it came by a path.

    Args:
        model: The network; it is left as it was.
        mask: What is kept.
        batch: One batch, for its shape.

    Raises:
        ValueError: If the mask does not fit the network.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> left = torch.tensor([[True, True], [False, False]])
        >>> live_path(net, Mask({"0.weight": left, "2.weight": torch.tensor([[True, False]])}),
        ...           torch.rand(1, 2))
        True
        >>> live_path(net, Mask({"0.weight": left, "2.weight": torch.tensor([[False, True]])}),
        ...           torch.rand(1, 2))
        False
    """
    inputs = model_inputs(batch)
    parameters = named_parameters(model)
    mask.must_fit(parameters)
    generator = torch.Generator().manual_seed(0)

    def positive(like: Tensor) -> Tensor:
        values = torch.rand(like.shape, generator=generator, dtype=torch.float64)
        return (values + 0.5).to(like.device)

    with borrowed(model), absolute(model, additive=False), torch.no_grad():
        for name, keep in mask.items():
            scale = len(keep) / max(1, int(keep.count_nonzero()))  # a row sums to about 1
            parameters[name].data = positive(parameters[name]) * keep.to(parameters[name]) * scale
        something = first_tensor(model(*map(positive, inputs)))
        nothing = first_tensor(model(*(torch.zeros_like(x, dtype=torch.float64) for x in inputs)))
        return not torch.equal(something, nothing)


def cut_off(gradients: Mapping[str, Tensor]) -> list[str]:
    """Return the names whose gradient is zero everywhere: nothing after them reads them.

    This needs no knowledge of the network: an empty layer silences every layer that has no other
    way to the loss.
    """
    return [name for name, gradient in gradients.items() if not bool(gradient.count_nonzero())]
