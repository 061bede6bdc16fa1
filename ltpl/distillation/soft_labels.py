"""What a student learns from a teacher: functions of their outputs, nothing else.

Everything is computed in float32 at least: under autocast, probabilities of half precision lose the
small ones, which is what soft labels are about.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, logsigmoid, mse_loss, normalize


def soft_label_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) of softened classes, mean over rows: Hinton et al. (2015).

    Its gradient falls as 1 / T^2; whoever adds it to another loss multiplies it by T^2.

    Args:
        student: Logits, a row each, the classes last.
        teacher: Logits of the same shape.
        temperature: What both are divided by.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0]])
        >>> float(soft_label_loss(logits, logits, temperature=4.0))
        0.0
    """
    ours = log_softmax(at_least_float(student) / temperature, -1)
    theirs = log_softmax(at_least_float(teacher) / temperature, -1)
    return kl_div(ours, theirs, reduction="batchmean", log_target=True)


def binary_soft_label_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) of softened yes-or-no outputs, mean over all of them."""
    z, goal = at_least_float(student) / temperature, at_least_float(teacher) / temperature
    yes = goal.sigmoid() * (logsigmoid(goal) - logsigmoid(z))
    no = (-goal).sigmoid() * (logsigmoid(-goal) - logsigmoid(-z))
    return (yes + no).mean()


def logit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of logits: Ba and Caruana (2014)."""
    return mse_loss(at_least_float(student), at_least_float(teacher))


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of hidden features: Romero et al. (2015), equal shapes."""
    return mse_loss(at_least_float(student), at_least_float(teacher))


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of attention maps: Zagoruyko and Komodakis (2017).

    A map is the mean of squares over the channels (dimension 1), of length one for each sample.
    """
    maps = [normalize(at_least_float(x).square().mean(1).flatten(1)) for x in (student, teacher)]
    return (maps[0] - maps[1]).square().mean()


def at_least_float(x: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 if it is that."""
    return x if x.dtype == torch.float64 else x.float()


def agreement(student: Tensor, teacher: Tensor, binary: bool) -> Tensor:
    """Return the share of rows, or of yes-or-no outputs, on which both decide alike."""
    return (decided(student, binary) == decided(teacher, binary)).float().mean()


def decided(logits: Tensor, binary: bool) -> Tensor:
    """Return the class of each row, or of each output whether it is yes."""
    return logits > 0 if binary else logits.argmax(-1)


def at_epoch(value: float | dict[int, float], epoch: int) -> float:
    """Return what a number, or a line through points, is at an epoch.

    Args:
        value: A number, or numbers by epoch; straight lines between them, constant outside.
        epoch: How many epochs have been trained.

    Example:
        >>> at_epoch({0: 0.9, 10: 0.5}, 5)
        0.7
    """
    if not isinstance(value, dict):
        return value
    points = sorted(value.items())
    before = [point for point in points if point[0] <= epoch]
    after = [point for point in points if point[0] > epoch]
    if not before or not after:
        return (before[-1] if before else after[0])[1]
    (start, low), (end, high) = before[-1], after[0]
    return low + (high - low) * (epoch - start) / (end - start)
