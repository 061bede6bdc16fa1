"""PyG's layers, which also take node features as a CSR matrix; parameters and names are theirs.

This file needs torch-geometric; `ltpl.models.graph` imports it when a network is built.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ltpl.models.csr import FeatureDropout, Memory, compressed, csr_matrix, times, turned

with warnings.catch_warnings():  # PyG 2.8 uses torch.jit, of which torch 2.15 warns
    warnings.filterwarnings("ignore", "`torch.jit")
    from torch_geometric.nn import GATConv, GCNConv, GINConv, MessagePassing, SAGEConv
    from torch_geometric.nn.conv.gcn_conv import gcn_norm
    from torch_geometric.nn.dense import Linear

__all__ = ["Attention", "Convolution", "FeatureDropout", "Isomorphism", "Memory", "Sampling"]
FLOATS = (torch.float32, torch.float64)  # that the sparse kernels of every device know
DEVICES = ("cpu", "cuda")


def plus(x: Tensor, bias: Tensor | None) -> Tensor:
    """Return what a layer gives, with its bias if it has one."""
    return x if bias is None else x + bias


class FeatureLinear(Linear):  # type: ignore[misc]
    """PyG's `Linear`, which also takes its input as a CSR matrix.

    It remembers how the last input is turned around. The values of a matrix may be changed in
    place afterwards; where they stand may not.
    """

    @classmethod
    def of(cls, layer: Any) -> FeatureLinear:
        """Return a layer of PyG as one of these: the same object, so nothing is drawn anew."""
        layer.__class__ = cls
        layer.places = Memory()
        assert isinstance(layer, cls)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Return `x @ weight.T + bias`."""
        if x.layout != torch.sparse_csr:
            dense: Tensor = super().forward(x)
            return dense
        return plus(self.product(x), self.bias)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def product(self, x: Tensor) -> Tensor:
        """Return `x @ weight.T` for a CSR matrix."""
        if x.requires_grad:
            raise ValueError("Sparse features get no gradient; give them as a dense tensor.")
        rows, columns = x.shape
        values = x.values()
        crow, col, back_crow, back_col, order = self.places(
            turned, x.crow_indices(), x.col_indices(), columns=columns
        )
        matrix = csr_matrix(crow, col, values, (rows, columns))
        back = csr_matrix(back_crow, back_col, values.index_select(0, order), (columns, rows))
        product: Tensor = times(matrix, self.weight.t(), back)
        return product


class Explained:
    """Messages that PyG's explainers can ask for, whichever of PyG's layers were built before.

    The first layer of a kind replaces `propagate` of its class by a faster one that explainers
    cannot use; a class derived from it must not take that for the original.
    """

    propagate = MessagePassing.propagate
    edge_updater = MessagePassing.edge_updater


class Convolution(Explained, GCNConv):  # type: ignore[misc]
    """PyG's `GCNConv`; the normalised adjacency is kept until the edges change.

    `GCNConv(cached=True)` keeps it whatever happens to the edges.

    Args:
        inputs: Features of a node.
        outputs: Features of a node in the output.
        adjacency: What remembers the adjacency; layers over the same graph share it.
    """

    def __init__(self, inputs: int, outputs: int, adjacency: Memory):
        super().__init__(inputs, outputs)
        self.lin: Any = FeatureLinear.of(self.lin)
        self._adjacency = adjacency

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        """Return the features of the nodes after a step over the edges."""
        if not self._remembers(x, edge_index, edge_weight):
            theirs: Tensor = super().forward(x, edge_index, edge_weight)
            return theirs
        forth, back = self._adjacency(
            _normalised,
            edge_index,
            edge_weight,
            nodes=x.shape[0],
            dtype=self.lin.weight.dtype,
            how=(self.improved, self.add_self_loops, self.flow),
        )
        return plus(times(forth, self.lin(x), back), self.bias)

    def _remembers(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None) -> bool:
        """Whether the sparse product will do: there is a kernel, and nobody asks for edges."""
        plain = isinstance(edge_index, Tensor) and edge_index.layout == torch.strided
        followed = edge_weight is not None and edge_weight.requires_grad
        known = x.device.type in DEVICES and self.lin.weight.dtype in FLOATS
        exporting = torch.compiler.is_exporting()  # a graph of operations has no memory
        return plain and known and not (followed or exporting or self.explain) and self.normalize


def _normalised(
    edge_index: Tensor,
    edge_weight: Tensor | None,
    nodes: int,
    dtype: torch.dtype,
    how: tuple[bool, bool, str],
) -> tuple[Tensor, Tensor]:
    """Return the normalised adjacency as CSR, and it turned around."""
    index, weight = gcn_norm(edge_index, edge_weight, nodes, *how, dtype)
    source, target = index if how[2] == "source_to_target" else index.flip(0)
    shape = (nodes, nodes)
    forth, back = (
        compressed(
            torch.sparse_coo_tensor(torch.stack(places), weight, shape, check_invariants=False)
        )
        for places in ((target, source), (source, target))
    )
    return forth, back


class Attention(Explained, GATConv):  # type: ignore[misc]
    """PyG's `GATConv`, which also takes features as a CSR matrix.

    Args:
        inputs: Features of a node.
        outputs: Features of a node that each head gives.
        heads: Number of heads.
        dropout: Probability of an attention coefficient to be dropped.
        last: Whether this is the last layer of the network, which averages its heads; in others
            they stand side by side.
    """

    def __init__(self, inputs: int, outputs: int, heads: int, dropout: float, last: bool):
        super().__init__(inputs, outputs, heads=heads, dropout=dropout, concat=not last)
        self.lin: Any = FeatureLinear.of(self.lin)


class Sampling(Explained, SAGEConv):  # type: ignore[misc]
    """PyG's `SAGEConv` with the mean, which also takes features as a CSR matrix.

    Those are multiplied by the weights before the mean over the neighbours is taken: the same
    result, and the mean is over a dense matrix of few columns.

    Args:
        inputs: Features of a node.
        outputs: Features of a node in the output.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.lin_l: Any = FeatureLinear.of(self.lin_l)
        self.lin_r: Any = FeatureLinear.of(self.lin_r)

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        """Return the features of the nodes after a step over the edges."""
        if x.layout != torch.sparse_csr:
            theirs: Tensor = super().forward(x, edge_index)
            return theirs
        sent = self.lin_l.product(x)
        out: Tensor = self.propagate(edge_index, x=(sent, sent), size=None)
        heard = plus(out, self.lin_l.bias)
        return heard + plus(self.lin_r.product(x), self.lin_r.bias)


class Isomorphism(Explained, GINConv):  # type: ignore[misc]
    """PyG's `GINConv` with two linear layers, which also takes features as a CSR matrix.

    Those are multiplied by the first weights before the sum over the neighbours is taken: the same
    result, and the sum is over a dense matrix of few columns.

    Args:
        inputs: Features of a node.
        hidden: Width between the two linear layers.
        outputs: Features of a node in the output.
        train_eps: Whether the weight of the node itself is learned.
        last: Whether this is the last layer of the network; others end with a normalisation.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, train_eps: bool, last: bool):
        first, second = FeatureLinear.of(Linear(inputs, hidden)), Linear(hidden, outputs)
        layers = [first, nn.BatchNorm1d(hidden), nn.ReLU(), second]
        layers += [] if last else [nn.BatchNorm1d(outputs)]
        super().__init__(nn.Sequential(*layers), train_eps=train_eps)

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        """Return the features of the nodes after a step over the edges."""
        if x.layout != torch.sparse_csr:
            theirs: Tensor = super().forward(x, edge_index)
            return theirs
        first = self.nn[0]
        sent = first.product(x)
        out: Tensor = self.propagate(edge_index, x=(sent, sent), size=None)
        rest: Tensor = self.nn[1:](out + (1 + self.eps) * sent + first.bias)
        return rest
