"""A network turned into one that only adds and multiplies: its output counts paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.overrides import TorchFunctionMode

PASS = {  # what follows a layer, and lets through whatever arrives
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "elu", "elu_"),
    *("selu", "celu", "gelu", "silu", "mish", "hardswish", "hardtanh", "hardsigmoid", "tanh"),
    *("sigmoid", "logsigmoid", "softplus", "softsign", "tanhshrink", "threshold", "softmax"),
    *("log_softmax", "softmin", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
}
CHANNELS = {"batch_norm": 3, "instance_norm": 3, "group_norm": 2}  # which argument gamma is
LAST = {"layer_norm": 2, "rms_norm": 2}


class Adding(TorchFunctionMode):
    """While it is on, activations pass on what they get, norms multiply by gamma, pools add up."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return what stands for the result of `func`."""
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in PASS:
            return args[0] if args else kwargs["input"]
        if place := CHANNELS.get(name) or LAST.get(name):
            gamma = args[place] if len(args) > place else kwargs.get("weight")
            return _scaled(args[0] if args else kwargs["input"], gamma, name in LAST)
        return INSTEAD.get(name, func)(*args, **kwargs)


def _scaled(input: Tensor, gamma: Tensor | None, last: bool) -> Tensor:
    if gamma is None:
        return input
    return input * (gamma if last else gamma.view(-1, *[1] * (input.dim() - 2)))


def _sum(input: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    return input.sum() if dim is None else input.sum(dim, keepdim)


def _max_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    **_: Any,
) -> Tensor:
    if dilation not in (1, (1, 1), [1, 1]):
        raise NotImplementedError("windows with holes")
    stride = kernel_size if stride in (None, []) else stride
    return avg_pool2d(input, kernel_size, stride, padding, ceil_mode, divisor_override=1)


def _avg_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    *_: Any,
    **__: Any,
) -> Tensor:
    return _max_pool(input, kernel_size, stride, padding, 1, ceil_mode)


def _adaptive_pool(input: Tensor, output_size: Any, *_: Any, **__: Any) -> Tensor:
    wanted = [output_size] * 2 if isinstance(output_size, int) else list(output_size)
    sizes = [(size, want or size) for size, want in zip(input.shape[-2:], wanted, strict=True)]
    if any(size % want for size, want in sizes):
        raise NotImplementedError("windows of several sizes")
    return _max_pool(input, [size // want for size, want in sizes])


def _max(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    if input.is_floating_point():
        raise NotImplementedError("the largest of several")
    return input.max(*args, **kwargs)


def _refused(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("pooling over something else than images")


INSTEAD: dict[str, Callable[..., Any]] = {
    "max": _max,
    "mean": _sum,
    "amax": _sum,
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_max_pool2d": _adaptive_pool,
    **dict.fromkeys(("topk", "max_pool1d", "max_pool3d"), _refused),
    **dict.fromkeys(("avg_pool1d", "avg_pool3d"), _refused),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_max_pool1d"), _refused),
}
