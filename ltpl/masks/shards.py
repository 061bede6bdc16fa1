"""Parameters of which each process holds a part: what is whole, and what lies here.

`torch.distributed.fsdp.fully_shard` and `parallelize_module` turn parameters into `DTensor`s. Masks
and scores are whole on every process; what is written goes to the part that lies here.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a `DTensor`."""
    loaded: Any = sys.modules.get("torch.distributed.tensor")  # no DTensor is there without it
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def any_sharded(model: nn.Module) -> bool:
    """Whether a parameter of `model` is sharded."""
    return any(map(is_sharded, parameters_of(model).values()))


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor, on its device; every process has to ask at the same time."""
    if not is_sharded(tensor):
        return tensor
    gathered: Any = tensor.detach()
    gathered = gathered.to(gathered.device_mesh.device_type)  # a shard may wait on the CPU
    return gathered.full_tensor().to(tensor.device)  # type: ignore[no-any-return]


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor sharded as `parameter` is; each process takes its part, none sends."""
    if not is_sharded(parameter) or is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    owner: Any = parameter
    split = distribute_tensor(tensor, owner.device_mesh, owner.placements, src_data_rank=None)
    return split.to(parameter.device)


def local(tensor: Tensor) -> Tensor:
    """Return the part that lies here, for writing under `torch.no_grad`: it is no copy."""
    found: Any = tensor
    return found.to_local() if is_sharded(tensor) else tensor


def part(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return what of a whole tensor belongs to `local(parameter)`."""
    return local(like(tensor, parameter))


@torch.no_grad()
def write_(parameter: Tensor, values: Tensor) -> None:
    """Put whole values into a parameter."""
    local(parameter).copy_(part(values, parameter))


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Put whole parameters in the places of sharded ones; what they become is written back."""
    parameters_of(model)
    owners = [(m, n, p) for m in model.modules() for n, p in m._parameters.items()]
    places = [(m, n, p) for m, n, p in owners if p is not None and is_sharded(p)]
    stand_in = {p: nn.Parameter(whole(p), p.requires_grad) for _, _, p in places}
    try:
        for module, name, parameter in places:
            module._parameters[name] = stand_in[parameter]
        yield
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter
            write_(parameter, stand_in[parameter].detach())


def parameters_of(model: nn.Module, remove_duplicate: bool = True) -> dict[str, nn.Parameter]:
    """Return the parameters that optimisers step, by name.

    Between a forward pass and the next, `fully_shard` may leave gathered copies in their places, in
    which a change would be lost: these go.

    Raises:
        ValueError: If only flattened or emptied parameters are there, of which nothing can be said.
    """
    loaded: Any = sys.modules.get("torch.distributed.fsdp")
    if loaded is not None:
        for module in model.modules():
            if isinstance(module, loaded.FSDPModule):
                module.reshard()
    found = dict(model.named_parameters(remove_duplicate=remove_duplicate))
    for name, parameter in found.items():
        if "_fsdp_wrapped_module." in name:
            raise ValueError(
                f"{name!r} is flattened by FullyShardedDataParallel, and a mask needs its shape: "
                "shard with torch.distributed.fsdp.fully_shard instead."
            )
        if hasattr(parameter, "ds_shape") and tuple(parameter.ds_shape) != tuple(parameter.shape):
            raise ValueError(
                f"{name!r} is partitioned by DeepSpeed and empty here, and a mask needs it whole: "
                "use deepspeed.zero.GatheredParameters, or shard with fully_shard instead."
            )
    return found


def must_lie_here(what: str, model: nn.Module) -> None:
    """Raise if parameters are sharded, for what runs the network by itself or takes it apart.

    Args:
        what: Begins the message.
        model: The network.

    Raises:
        ValueError: If a parameter of it is sharded.
    """
    if any_sharded(model):
        raise ValueError(
            f"{what} runs the network by itself, which sharded parameters do not allow: choose "
            "what looks at weights alone, or use one device or strategy='ddp'."
        )
