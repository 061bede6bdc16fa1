"""Graph networks that classify nodes: GCN, GAT, GIN and GraphSAGE, on the layers of PyG."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import elu

from ltpl.models.initialise import initialiser
from ltpl.models.network import Network
from ltpl.models.options import below_one, instance, whole


def layers_of_pyg() -> Any:
    """Return the module of layers, which needs PyG.

    Raises:
        ValueError: If torch-geometric is not installed.
    """
    try:
        return importlib.import_module("ltpl.models.graph_layers")
    except ModuleNotFoundError as error:
        raise ValueError(
            "Graph networks are built on torch-geometric, which is not installed: "
            "pip install torch-geometric"
        ) from error


class GraphNetwork(Network):
    """What the four have in common: dropout before each layer, an activation after all but one.

    Node features may be a sparse tensor, CSR for choice: then dropout acts on the stored values
    only (a dropped zero stays zero) and the first layer multiplies sparse by dense.

    Args:
        inputs: Features of a node.
        hidden: Width of the hidden layers.
        outputs: Number of classes.
        layers: Number of layers, which is how many steps a node sees.
        dropout: Probability of a value to be dropped, before each layer.
        init: How weights are drawn: default (as PyG does), glorot_normal, kaiming_normal,
            orthogonal.
    """

    refusal: ClassVar[str] = ""  # why there is no place for edge weights, if so

    def __init__(
        self, inputs: int, hidden: int, outputs: int, layers: int, dropout: float, init: str
    ):
        super().__init__()
        sizes = {"inputs": inputs, "hidden": hidden, "outputs": outputs, "layers": layers}
        for option, size in sizes.items():
            whole(option, size)
        initialiser(init)
        self.init = init
        self.drop = layers_of_pyg().FeatureDropout(below_one("dropout", dropout))

    def _build(self, hidden: list[nn.Module], output: nn.Module) -> None:
        self.hidden = nn.ModuleList(hidden)
        self.output = output
        if initialiser(self.init) is not None:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew; attention vectors always as PyG draws them."""
        for layer in (*self.hidden, self.output):
            layer.reset_parameters()
        if initialiser(self.init) is not None:
            super().reset_parameters()

    def activation(self, x: Tensor) -> Tensor:
        """Return what follows a hidden layer."""
        return x.relu()

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        """Return the logits of all nodes.

        Args:
            x: Features of the nodes, dense or sparse.
            edge_index: Edges, from the nodes in its first row to those in its second.
            edge_weight: Weight of each edge, for networks that have a place for it.

        Raises:
            ValueError: If the network has no place for edge weights.
        """
        if edge_weight is not None and self.refusal:
            raise ValueError(
                f"{type(self).__name__} takes no edge_weight: {self.refusal}. Leave edges out of "
                "edge_index, or use GCN."
            )
        weights = () if edge_weight is None else (edge_weight,)
        for layer in self.hidden:
            x = self.activation(layer(self.drop(x), edge_index, *weights))
        logits: Tensor = self.output(self.drop(x), edge_index, *weights)
        return logits


class GCN(GraphNetwork):
    """Graph convolutional network: Kipf and Welling (2017), as theirs on Cora.

    The normalised adjacency is computed once for a graph, and again once the edges change.

    Args:
        inputs: Features of a node.
        hidden: Width of the hidden layers.
        outputs: Number of classes.
        layers: Number of layers, which is how many steps a node sees.
        dropout: Probability of a value to be dropped, before each layer.
        init: How weights are drawn: default (Glorot, uniform), glorot_normal, kaiming_normal,
            orthogonal.

    Raises:
        ValueError: If an option is wrong, or torch-geometric is not installed.

    Example:
        >>> import torch
        >>> ring = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> GCN(inputs=4, outputs=2)(torch.rand(3, 4), ring).shape
        torch.Size([3, 2])
    """

    output_layer = "output.lin"

    def __init__(
        self,
        inputs: int = 1433,
        hidden: int = 16,
        outputs: int = 7,
        layers: int = 2,
        dropout: float = 0.5,
        init: str = "default",
    ):
        super().__init__(inputs, hidden, outputs, layers, dropout, init)
        pyg = layers_of_pyg()
        kind, adjacency = pyg.Convolution, pyg.Memory()
        widths = [inputs, *[hidden] * (layers - 1)]
        body = [kind(width, hidden, adjacency) for width in widths[:-1]]
        self._build(body, kind(widths[-1], outputs, adjacency))


class GAT(GraphNetwork):
    """Graph attention network: Velickovic et al. (2018), as theirs on Cora.

    Args:
        inputs: Features of a node.
        hidden: Width of each head of the hidden layers.
        outputs: Number of classes.
        layers: Number of layers, which is how many steps a node sees.
        heads: Heads of the hidden layers, side by side.
        output_heads: Heads of the last layer, averaged: 1 on Cora, 8 on PubMed.
        dropout: Probability of a value to be dropped, before each layer.
        attention_dropout: Probability of an attention coefficient to be dropped.
        init: How weights are drawn: default (Glorot, uniform), glorot_normal, kaiming_normal,
            orthogonal; attention vectors always as by default.

    Raises:
        ValueError: If an option is wrong, or torch-geometric is not installed.
    """

    output_layer = "output.lin"
    refusal = "attention weighs the edges"

    def __init__(
        self,
        inputs: int = 1433,
        hidden: int = 8,
        outputs: int = 7,
        layers: int = 2,
        heads: int = 8,
        output_heads: int = 1,
        dropout: float = 0.6,
        attention_dropout: float = 0.6,
        init: str = "default",
    ):
        super().__init__(inputs, hidden, outputs, layers, dropout, init)
        whole("heads", heads)
        whole("output_heads", output_heads)
        below_one("attention_dropout", attention_dropout)
        kind = layers_of_pyg().Attention
        widths = [inputs, *[heads * hidden] * (layers - 1)]
        body = [kind(width, hidden, heads, attention_dropout, last=False) for width in widths[:-1]]
        self._build(body, kind(widths[-1], outputs, output_heads, attention_dropout, last=True))

    def activation(self, x: Tensor) -> Tensor:
        """Return what follows a hidden layer."""
        return elu(x)


class GIN(GraphNetwork):
    """Graph isomorphism network: Xu et al. (2019), section 7, for nodes.

    Each layer sums over the neighbours and applies two linear layers, with batch normalisation and
    ReLU after all but the last of the network.

    Args:
        inputs: Features of a node.
        hidden: Width of the hidden layers.
        outputs: Number of classes.
        layers: Number of layers, which is how many steps a node sees.
        dropout: Probability of a value to be dropped, before each layer.
        train_eps: Whether the weight of a node among its neighbours is learned (GIN-eps) or 1
            (GIN-0).
        init: How weights are drawn: default (uniform, as `nn.Linear`), glorot_normal,
            kaiming_normal, orthogonal.

    Raises:
        ValueError: If an option is wrong, or torch-geometric is not installed.
    """

    output_layer = "output.nn.3"
    refusal = "it sums over the neighbours"

    def __init__(
        self,
        inputs: int = 1433,
        hidden: int = 64,
        outputs: int = 7,
        layers: int = 2,
        dropout: float = 0.5,
        train_eps: bool = False,
        init: str = "default",
    ):
        super().__init__(inputs, hidden, outputs, layers, dropout, init)
        instance("train_eps", train_eps, bool, "true or false")
        kind = layers_of_pyg().Isomorphism
        widths = [inputs, *[hidden] * (layers - 1)]
        body = [kind(width, hidden, hidden, train_eps, last=False) for width in widths[:-1]]
        self._build(body, kind(widths[-1], hidden, outputs, train_eps, last=True))


class GraphSAGE(GraphNetwork):
    """GraphSAGE with the mean over all neighbours: Hamilton et al. (2017), section 3.

    Args:
        inputs: Features of a node.
        hidden: Width of the hidden layers.
        outputs: Number of classes.
        layers: Number of layers, which is how many steps a node sees.
        dropout: Probability of a value to be dropped, before each layer.
        init: How weights are drawn: default (uniform, as `nn.Linear`), glorot_normal,
            kaiming_normal, orthogonal.

    Raises:
        ValueError: If an option is wrong, or torch-geometric is not installed.
    """

    output_layer = "output.lin_l", "output.lin_r"
    refusal = "it takes the mean over the neighbours"

    def __init__(
        self,
        inputs: int = 1433,
        hidden: int = 256,
        outputs: int = 7,
        layers: int = 2,
        dropout: float = 0.5,
        init: str = "default",
    ):
        super().__init__(inputs, hidden, outputs, layers, dropout, init)
        kind = layers_of_pyg().Sampling
        widths = [inputs, *[hidden] * (layers - 1)]
        body = [kind(width, hidden) for width in widths[:-1]]
        self._build(body, kind(widths[-1], outputs))
