"""Graphs that node classifiers train on: citation graphs, the karate club, random blocks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ltpl.data.graph_data import GraphData
from ltpl.data.options import LARGEST_SEED, choice, share, shown, whole
from ltpl.data.planetoid import Citations, fetch, file_names, read
from ltpl.data.pyg import of_pyg

NAMES = ("Cora", "CiteSeer", "PubMed")
SPLITS = ("public", "full", "random")
TRAIN_PER_CLASS, VAL_NODES, TEST_NODES = 20, 500, 1000  # of a random split, as in the public one


class Planetoid(GraphData):
    """The citation graphs Cora, CiteSeer and PubMed: Yang et al. (2016).

    The files are read without running code in them, and nothing is written beside them.

    Args:
        data_dir: The folder that holds `<name>/raw`, as PyG lays it out.
        name: Cora, CiteSeer or PubMed.
        split: `public`: 20 nodes of each class to train, 500 to validate, 1000 to test. `full`: all
            others to train (Chen et al., 2018). `random`: as many as public, drawn by the seed.
        normalize: Whether the words of each node are divided by their sum (Kipf and Welling, 2017),
            or kept as they are stored.
        sparse: Whether features are a CSR tensor: 1 % of Cora's are not zero.
        seed: Seed of a random split.
        download: Whether missing files are fetched into `data_dir`.
        options: What `GraphData` takes beside: `neighbors`, `batch_size`.
    """

    def __init__(
        self,
        data_dir: str | Path = "data",
        name: Literal["Cora", "CiteSeer", "PubMed"] = "Cora",
        split: Literal["public", "full", "random"] = "public",
        normalize: bool = True,
        sparse: bool = True,
        seed: int = 0,
        download: bool = False,
        **options: Any,
    ):
        super().__init__(**options)
        self.data_dir = data_dir
        self.name: str = str(choice("name", name, NAMES))
        self.split = choice("split", split, SPLITS)
        self.normalize = choice("normalize", normalize, (True, False))
        self.sparse = choice("sparse", sparse, (True, False))
        self.seed = whole("seed", seed, 0, LARGEST_SEED)
        self.download = choice("download", download, (True, False))

    @property
    def _raw(self) -> Path:
        return Path(self.data_dir).expanduser().absolute() / self.name / "raw"

    def prepare_data(self) -> None:
        """Fetch the files where that is asked for and some are missing."""
        missing = [file for file in file_names(self.name) if not (self._raw / file).is_file()]
        if self.download and missing:
            fetch(missing, self._raw)

    def load(self) -> Any:
        """Return the graph with its masks."""
        found = read(self._raw, self.name)
        x = row_normalised(found.features) if self.normalize else found.features
        graph = of_pyg("data").Data(
            x=as_csr(x) if self.sparse else x.to_dense(), edge_index=found.edges, y=found.labels
        )
        graph.train_mask, graph.val_mask, graph.test_mask = self._parts(found)
        return graph

    def _parts(self, found: Citations) -> tuple[Tensor, Tensor, Tensor]:
        nodes, labelled = len(found.labels), found.labelled
        if self.split == "random":
            return drawn(found.labels, found.classes, self.seed)
        val = marked(torch.arange(labelled, labelled + VAL_NODES), nodes)
        test = marked(found.test, nodes)
        train = marked(torch.arange(labelled), nodes)
        return (~(val | test) if self.split == "full" else train), val, test


def marked(nodes: Tensor, number: int) -> Tensor:
    """Return a mask over all nodes that is true for these."""
    return torch.zeros(number, dtype=torch.bool).index_fill_(0, nodes, True)


def drawn(labels: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return masks of a random split: 20 nodes of each class, then 500 and 1000 of the others."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    firsts = [order[labels[order] == label][:TRAIN_PER_CLASS] for label in range(classes)]
    train = marked(torch.cat(firsts), len(labels))
    others = order[~train[order]]
    val = marked(others[:VAL_NODES], len(labels))
    test = marked(others[VAL_NODES : VAL_NODES + TEST_NODES], len(labels))
    return train, val, test


def row_normalised(features: Tensor) -> Tensor:
    """Return a COO matrix whose rows are divided by their sums; empty rows stay empty."""
    rows = features.indices()[0]
    sums = torch.zeros(len(features)).index_add_(0, rows, features.values())
    scale = torch.where(sums == 0, 1, sums)[rows]
    return torch.sparse_coo_tensor(
        features.indices(),
        features.values() / scale,
        features.shape,
        is_coalesced=True,
        check_invariants=False,
    )


def as_csr(features: Tensor) -> Tensor:
    """Return a COO matrix as CSR, without the warning that torch gives for the first one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return features.to_sparse_csr()


class KarateClub(GraphData):
    """Zachary's karate club (1977), 34 people in 4 groups, shipped with PyG: for quick trials.

    One person of each group is labelled for training, as in Kipf and Welling (2017), appendix A;
    of the other 30, half validate and half test.

    Args:
        seed: Seed of the split of those 30.
        options: What `GraphData` takes beside: `neighbors`, `batch_size`.
    """

    def __init__(self, seed: int = 0, **options: Any):
        super().__init__(**options)
        self.seed = whole("seed", seed, 0, LARGEST_SEED)

    def load(self) -> Any:
        """Return the graph with its masks."""
        graph = of_pyg("datasets").KarateClub()[0]
        order = torch.randperm(34, generator=torch.Generator().manual_seed(self.seed))
        others = order[~graph.train_mask[order]]
        graph.val_mask, graph.test_mask = marked(others[:15], 34), marked(others[15:], 34)
        return graph


class StochasticBlockModel(GraphData):
    """A random graph of blocks, more edges within than between them; the block is the class.

    Features are the same normal random vector for all nodes of a block, with normal noise added.

    Args:
        blocks: Number of blocks.
        nodes: Nodes in each block.
        p_in: Probability of an edge between two nodes of one block.
        p_out: Probability of an edge between nodes of two blocks.
        features: Features of a node.
        noise: Standard deviation of the noise on features of deviation 1.
        train: Share of the nodes that are labelled for training.
        val: Share that validates; the others test.
        seed: Seed of everything.
        options: What `GraphData` takes beside: `neighbors`, `batch_size`.
    """

    def __init__(
        self,
        blocks: int = 4,
        nodes: int = 50,
        p_in: float = 0.2,
        p_out: float = 0.02,
        features: int = 16,
        noise: float = 1.0,
        train: float = 0.2,
        val: float = 0.3,
        seed: int = 0,
        **options: Any,
    ):
        super().__init__(**options)
        self.blocks = whole("blocks", blocks, 1)
        self.nodes = whole("nodes", nodes, 2)
        self.p_in = share("p_in", p_in)
        self.p_out = share("p_out", p_out)
        self.width = whole("features", features, 1)
        if not isinstance(noise, int | float) or not 0 <= noise < float("inf"):
            raise ValueError(f"noise={shown(noise)}: a number from 0 is wanted.")
        self.noise = noise
        total = blocks * nodes
        self.train = max(1, round(share("train", train, open_below=True) * total))
        self.val = max(1, round(share("val", val, open_below=True) * total))
        if self.train + self.val >= total:
            raise ValueError(f"train={train!r}, val={val!r}: nothing is left to test.")
        self.seed = whole("seed", seed, 0, LARGEST_SEED)

    def load(self) -> Any:
        """Return the graph with its masks."""
        total = self.blocks * self.nodes
        blocks = torch.full((self.blocks,), self.nodes)
        p = torch.full((self.blocks, self.blocks), self.p_out).fill_diagonal_(self.p_in)
        y = torch.arange(self.blocks).repeat_interleave(self.nodes)
        with torch.random.fork_rng(devices=[]):  # PyG draws from the global random state
            torch.manual_seed(self.seed)
            edges = of_pyg("utils").stochastic_blockmodel_graph(blocks, p)
            means, noise = torch.randn(self.blocks, self.width), torch.randn(total, self.width)
            order = torch.randperm(total)
        graph = of_pyg("data").Data(x=means[y] + self.noise * noise, edge_index=edges, y=y)
        sizes = [self.train, self.val, total - self.train - self.val]
        parts = (marked(part, total) for part in torch.split(order, sizes))
        graph.train_mask, graph.val_mask, graph.test_mask = parts
        return graph
