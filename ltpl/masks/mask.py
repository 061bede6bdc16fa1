"""`Mask`: which weights are kept, as one boolean tensor for each parameter."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ltpl.masks.errors import checked, unknown
from ltpl.masks.files import read_tensors, write_tensors
from ltpl.masks.select import is_bias, named_parameters
from ltpl.masks.shards import local, part, whole

FORMAT = "ltpl.mask/1"


@dataclass(frozen=True)
class LayerDensity:
    """One row of `Mask.table()`."""

    name: str
    kept: int
    total: int

    @property
    def density(self) -> float:
        """Share of this parameter's weights that are kept."""
        return self.kept / self.total if self.total else 1.0


class Mask(Mapping[str, Tensor]):
    """Parameter name -> boolean tensor: `True` where a weight is kept.

    Masks are values: operators return new masks, nothing changes one in place.

    Args:
        keep: For each parameter name a boolean tensor of the parameter's shape.
        metadata: Short strings that travel with the file (what made the mask).

    Raises:
        ValueError: If a tensor is not boolean.

    Example:
        >>> mask = Mask({"fc.weight": torch.tensor([[True, False], [True, True]])})
        >>> mask
        Mask(1 parameter, 3 of 4 weights kept, density 0.75)
        >>> mask.density
        0.75
    """

    @checked
    def __init__(self, keep: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None):
        for name, tensor in keep.items():
            if tensor.dtype != torch.bool:
                raise ValueError(f"Mask: {name!r} is {tensor.dtype}; masks are torch.bool.")
        self._keep = dict(keep)
        self.metadata = dict(metadata or {})

    @classmethod
    def dense(cls, parameters: Mapping[str, Tensor]) -> Mask:
        """Keep every weight of `parameters`."""
        found = parameters.items()
        return cls({n: torch.ones(p.shape, dtype=torch.bool, device=p.device) for n, p in found})

    @classmethod
    def nonzero(cls, parameters: Mapping[str, Tensor]) -> Mask:
        """Keep what is not zero. A kept weight that happens to be zero is lost: store masks."""
        return cls({n: whole(p.detach()) != 0 for n, p in parameters.items()})

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._keep[name]
        except KeyError:
            raise KeyError(str(unknown("parameter", name, self._keep))) from None

    def __contains__(self, name: object) -> bool:
        return name in self._keep

    def __iter__(self) -> Iterator[str]:
        return iter(self._keep)

    def __len__(self) -> int:
        return len(self._keep)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return self.keys() == other.keys() and all(
            keep.shape == other[name].shape and torch.equal(keep, other[name].to(keep.device))
            for name, keep in self.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        parameters = "1 parameter" if len(self) == 1 else f"{len(self)} parameters"
        return (
            f"Mask({parameters}, {self.kept:,} of {self.total:,} weights kept, "
            f"density {self.density:.4g})"
        )

    @property
    def kept(self) -> int:
        """How many weights are kept."""
        return sum(int(keep.count_nonzero()) for keep in self._keep.values())

    @property
    def total(self) -> int:
        """How many weights the mask speaks of."""
        return sum(keep.numel() for keep in self._keep.values())

    @property
    def density(self) -> float:
        """Share of the masked weights that are kept."""
        total = self.total
        return self.kept / total if total else 1.0

    @property
    def empty(self) -> tuple[str, ...]:
        """Names of the parameters of which nothing is kept, biases left out."""
        return tuple(n for n, keep in self.items() if not is_bias(n) and not keep.any())

    def density_of(self, model: nn.Module) -> float:
        """Share of *all* parameters of `model` that are left, biases and the like included."""
        everything = sum(p.numel() for p in model.parameters())
        return (everything - self.total + self.kept) / everything if everything else 1.0

    def table(self) -> list[LayerDensity]:
        """Return one row a parameter: name, kept, total, density."""
        return [LayerDensity(n, int(k.count_nonzero()), k.numel()) for n, k in self.items()]

    def __and__(self, other: Mask) -> Mask:
        """Keep what both keep."""
        self._must_match(other)
        return Mask({n: keep & other[n].to(keep.device) for n, keep in self.items()})

    def __or__(self, other: Mask) -> Mask:
        """Keep what either keeps."""
        self._must_match(other)
        return Mask({n: keep | other[n].to(keep.device) for n, keep in self.items()})

    def distance(self, other: Mask) -> float:
        """Return the normalised Hamming distance: the share of weights on which the two differ."""
        self._must_match(other)
        differ = sum(int((k ^ other[n].to(k.device)).count_nonzero()) for n, k in self.items())
        return differ / self.total if self.total else 0.0

    def overlap(self, other: Mask) -> float:
        """Return the share of the weights kept by either that both keep (Jaccard index)."""
        either = (self | other).kept
        return (self & other).kept / either if either else 1.0

    def to(self, device: torch.device | str) -> Mask:
        """Return the mask on `device`."""
        return Mask({n: keep.to(device) for n, keep in self.items()}, self.metadata)

    @torch.no_grad()
    def apply_(self, target: nn.Module | Mapping[str, Tensor]) -> None:
        """Set to zero, in place, what is not kept.

        Args:
            target: A module, or tensors by parameter name. Tensors without a mask are left alone.

        Raises:
            ValueError: If a masked parameter is missing from `target` or has another shape.
        """
        tensors = named_parameters(target) if isinstance(target, nn.Module) else target
        self.must_fit(tensors)
        for name, keep in self.items():
            tensor = tensors[name]
            local(tensor).masked_fill_(~part(keep.to(tensor.device), tensor), 0)

    def must_fit(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise a `ValueError` naming the first parameter that is missing or differs in shape."""
        for name, keep in self.items():
            if name not in tensors:
                raise unknown("Mask: parameter", name, tensors)
            if tensors[name].shape != keep.shape:
                raise ValueError(
                    f"Mask: {name!r} has shape {tuple(keep.shape)} in the mask but "
                    f"{tuple(tensors[name].shape)} in the model."
                )

    def _must_match(self, other: Mask) -> None:
        if self.keys() != other.keys():
            odd = sorted(self.keys() ^ other.keys())
            raise ValueError(f"Masks of different parameters: only one of the two has {odd}.")
        self.must_fit(other)

    def packed(self) -> dict[str, Tensor]:
        """Return eight weights a byte: parameter name -> flat uint8 tensor on the CPU."""
        return {
            name: torch.from_numpy(np.packbits(keep.detach().cpu().numpy().reshape(-1)))
            for name, keep in self.items()
        }

    @classmethod
    def unpacked(cls, bits: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> Mask:
        """Rebuild the mask from `packed()` and the shapes."""
        keep = {}
        for name, shape in shapes.items():
            count = math.prod(shape)
            if not 0 <= count <= 8 * len(bits[name]):  # the rest would be made up, without end
                raise ValueError(f"{name!r} has {len(bits[name])} bytes for a shape of {shape}.")
            flat = np.unpackbits(bits[name].numpy(), count=count)
            keep[name] = torch.from_numpy(flat.view(np.bool_)).reshape(shape)
        return cls(keep)

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Parameter name -> shape, as plain lists."""
        return {name: list(keep.shape) for name, keep in self.items()}

    @property
    def digest(self) -> str:
        """SHA-256 over names, shapes and kept weights; the same on every device and rank."""
        return _digest(self.packed(), self.shapes)

    def save(self, path: str | Path) -> None:
        """Write one bit a weight, with metadata and digest, as safetensors; whole or not at all."""
        bits = self.packed()
        header = {
            "format": FORMAT,
            "shapes": json.dumps(self.shapes),
            "digest": _digest(bits, self.shapes),
            "metadata": json.dumps(self.metadata),
        }
        header["seal"] = _seal(header)
        write_tensors(path, bits, header)

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Mask:
        """Read a mask and check its digest. No code in the file is run.

        Raises:
            FileNotFoundError: If there is no file at `path`.
            ValueError: If the file is not a mask, is cut short or was changed.
        """
        header, bits = read_tensors(path, "mask")
        if header.get("format") != FORMAT:
            raise ValueError(
                f"{path} is not a mask: format {header.get('format')!r}, not {FORMAT!r}."
            )
        changed = ValueError(f"{path} was changed after it was written: its digest differs.")
        if header.get("seal") != _seal(header):
            raise changed
        try:
            shapes = json.loads(header["shapes"])
            if bits.keys() != shapes.keys() or _digest(bits, shapes) != header["digest"]:
                raise changed
            mask = cls.unpacked(bits, shapes)
            mask.metadata = json.loads(header["metadata"])
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} is not a mask: {error}.") from None
        return mask


def _digest(bits: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(bits):
        digest.update(f"{name}{shapes[name]}".encode())
        digest.update(bits[name].numpy().data)
    return digest.hexdigest()


def _seal(header: Mapping[str, str]) -> str:
    """SHA-256 over what the header says besides the seal itself."""
    rest = {key: value for key, value in header.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
