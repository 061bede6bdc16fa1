"""A sparse matrix that stays as it is, times a dense one that learns.

The gradient of such a product is a product too, with the matrix turned around. torch turns it anew
at every backward pass, which takes 2 ms of a 3 ms training step of a GCN on Cora. Here that is done
once: the places of the values do not change between the steps, only the values do (by dropout).

torch.compile knows no sparse tensors; it leaves out what here is disabled for it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 2**31  # the kernels for 32-bit places take half the time


class Memory:
    """The last answer of a function of tensors, until one of the tensors is another or changed.

    Changes in place are noticed by the tensors' version counters, which `tensor.data` and numpy
    views pass by. Tensors of inference mode have none, so nothing is remembered of them. Copies and
    pickles start empty.

    Example:
        >>> memory, edges = Memory(), torch.tensor([1, 2])
        >>> memory(torch.sum, edges), memory(torch.sum, edges.add_(1))
        (tensor(3), tensor(5))
    """

    def __init__(self) -> None:
        self._tensors: tuple[Tensor | None, ...] = ()
        self._key: Any = None
        self._answer: Any = None

    def __reduce__(self) -> tuple[type[Memory], tuple[()]]:
        return (Memory, ())

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self, function: Callable[..., Any], *tensors: Tensor | None, **options: Any
    ) -> Any:
        """Return `function(*tensors, **options)`, computed only if something is new.

        Args:
            function: What is computed; it follows no gradient.
            tensors: The tensors it depends on.
            options: What else it depends on.
        """
        with torch.no_grad():
            if any(tensor is not None and tensor.is_inference() for tensor in tensors):
                return function(*tensors, **options)
            key = (function, options, *map(_identity, tensors))
            if key != self._key:
                # validation runs in inference mode, and what that makes cannot be trained with
                with torch.inference_mode(False):
                    self._answer = function(*tensors, **options)
                # kept, so that no other tensor takes their place in memory
                self._key, self._tensors = key, tensors
        return self._answer


def _identity(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    memory = tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride()
    return *memory, tensor._version


def compressed(matrix: Tensor) -> Tensor:
    """Return a COO matrix as CSR with 32-bit places, equal places added up."""
    _hush()
    csr = matrix.to_sparse_csr()
    crow, col = _small(csr.crow_indices(), csr.col_indices())
    return csr_matrix(crow, col, csr.values(), csr.shape)


def csr_matrix(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a CSR tensor, without the warnings that torch gives for the first one."""
    _hush()
    return torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=False)


@functools.cache
def _hush() -> None:
    with warnings.catch_warnings():  # of a beta, and in torch 2.11 of checks that are off
        warnings.filterwarnings("ignore", "Sparse", UserWarning)
        one = torch.eye(1).to_sparse_csr()
        parts = one.crow_indices(), one.col_indices(), one.values()
        torch.sparse_csr_tensor(*parts, one.shape, check_invariants=False)


def _small(crow: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns with 32-bit places where they suffice."""
    return (crow.int(), col.int()) if col.numel() < SMALL else (crow, col)


def turned(crow: Tensor, col: Tensor, columns: int) -> tuple[Tensor, ...]:
    """Return where the values of a CSR matrix stand in it, and in it turned around.

    Args:
        crow: Where each row begins.
        col: The column of each value.
        columns: Number of columns.

    Returns:
        Rows and columns of the matrix, then those of the turned matrix, and last the order in
        which the turned matrix takes the values.
    """
    rows = torch.arange(len(crow) - 1, device=crow.device).repeat_interleave(crow.diff().long())
    order = col.argsort(stable=True)
    begins = torch.zeros(columns + 1, dtype=torch.int64, device=col.device)
    begins[1:] = torch.bincount(col, minlength=columns).cumsum(0)
    return *_small(crow, col), *_small(begins, rows[order]), order


@torch.compiler.disable  # type: ignore[untyped-decorator]
def times(matrix: Tensor, dense: Tensor, back: Tensor) -> Tensor:
    """Return `matrix @ dense`, with a gradient for `dense` that is as fast.

    Args:
        matrix: A CSR matrix; it gets no gradient.
        dense: A dense matrix.
        back: `matrix` turned around, as CSR.
    """
    with torch.autocast(dense.device.type, enabled=False):  # no kernel takes half precision
        dtype = torch.promote_types(matrix.dtype, dense.dtype)
        product: Tensor = _Product.apply(dense.to(dtype), matrix.to(dtype), back.to(dtype))
    return product


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor, back: Tensor) -> Tensor:
        ctx.both = matrix, back
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        matrix, back = ctx.both
        return times(back, gradient, matrix), None, None


class FeatureDropout(nn.Module):
    """Drops values and scales up the others; of sparse features, only stored values are drawn.

    The distribution is that of `nn.Dropout`, since a dropped zero stays zero; on a CPU it takes
    half the time. COO features come out as CSR.

    Args:
        p: The probability of a value to be dropped.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p
        self._compressed = Memory()

    def forward(self, x: Tensor) -> Tensor:
        """Return what is left of a dense or sparse matrix."""
        if x.layout != torch.strided:
            sparse: Tensor = self._sparse(x)
            return sparse
        return dropped(x, self.p) if self.training and self.p else x

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _sparse(self, x: Tensor) -> Tensor:
        if x.layout == torch.sparse_coo:
            x = x.coalesce()
            x = self._compressed(_of_coo, x.indices(), x.values(), shape=x.shape)
        if not self.training or not self.p:
            return x
        values = dropped(x.values(), self.p)
        return csr_matrix(x.crow_indices(), x.col_indices(), values, x.shape)

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"p={self.p}"


def _of_coo(indices: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    return compressed(torch.sparse_coo_tensor(indices, values, shape, check_invariants=False))


def dropped(x: Tensor, p: float) -> Tensor:
    """Return a dense tensor with a share of its values dropped, the others scaled up.

    Args:
        x: The tensor.
        p: The probability of a value to be dropped, below 1.
    """
    keep = torch.rand(x.shape, device=x.device).ge_(p).mul_(1 / (1 - p))
    return x * keep.to(x.dtype)
