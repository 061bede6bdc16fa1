"""The files of Planetoid (Yang et al., 2016): citation graphs as Cora, read without running code.

They are pickles, and an ordinary unpickler runs what a pickle asks for. This one makes inert
records of what the files say about arrays and matrices, and refuses whatever else they name.
"""

from __future__ import annotations

import functools
import pickle
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltpl.data.pyg import of_pyg

PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")


@dataclass(frozen=True)
class Citations:
    """A citation graph as its files tell it.

    Args:
        features: Words of each node, a coalesced COO tensor in float32.
        edges: Edges in both directions, sorted by target and then source, without loops.
        labels: The class of each node.
        classes: Number of classes.
        labelled: How many of the first nodes are labelled for training.
        test: The test nodes, in the order of their file.
    """

    features: Tensor
    edges: Tensor
    labels: Tensor
    classes: int
    labelled: int
    test: Tensor


def file_names(name: str) -> tuple[str, ...]:
    """Return the names of the files of a graph."""
    return tuple(f"ind.{name.lower()}.{part}" for part in PARTS)


@functools.lru_cache(maxsize=4)
def read(raw: Path, name: str) -> Citations:
    """Return a graph, read once a process.

    Args:
        raw: The folder of the files.
        name: The name of the graph.

    Raises:
        ValueError: If files are missing, broken or ask for code.
    """
    files = [raw / file for file in file_names(name)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(
            f"data_dir: {', '.join(missing)} not found in {raw}; put the files of Planetoid there, "
            f"name the folder that holds {name}/raw, or set download=True."
        )
    said = dict(zip(PARTS, map(_content, files), strict=True))
    try:
        return _assembled(said)
    except Exception as error:  # whatever may be wrong with files of another origin
        raise ValueError(
            f"data_dir: the files in {raw} are not those of {name}; delete them and set "
            "download=True."
        ) from error


def fetch(files: list[str], raw: Path) -> None:
    """Download files of Planetoid, whole or not at all.

    Args:
        files: Their names.
        raw: The folder that they go to.

    Raises:
        ValueError: If that fails.
    """
    source = of_pyg("datasets").Planetoid.url
    copy_file: Callable[[str, str], None] = of_pyg("io.fs").cp
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=raw) as folder:
            for file in files:
                copy_file(f"{source}/{file}", str(Path(folder) / file))
                shutil.move(Path(folder) / file, raw / file)
    except Exception as error:  # of the network, of its libraries, or of the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"download: {source} could not be copied to {raw} ({reason}); get {', '.join(files)} "
            "elsewhere and put them there."
        ) from error


class _Record:
    """What a pickle says of an object; nothing of it is run."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    names = re.compile(
        r"numpy(\._?core\.multiarray\._reconstruct|\.ndarray|\.dtype)"
        r"|scipy\.sparse\._?csr\.csr_matrix"
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "defaultdict"):
            return lambda *_: {}
        if module in ("builtins", "__builtin__") and name == "list":
            return list
        if not self.names.fullmatch(f"{module}.{name}"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        # a new class each time: a pickle may change the one that it is given
        return type("Record", (_Record,), {})


def _content(path: Path) -> Any:
    try:
        if path.name.endswith("test.index"):
            return [int(line) for line in path.read_text().split()]
        with path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except Exception as error:  # a broken pickle may raise anything
        reason = f": {error}" if str(error).startswith("it asks for") else ""
        raise ValueError(
            f"data_dir: {path} is no file of Planetoid{reason}; nothing in it was run. Delete it "
            "and set download=True."
        ) from error


def _array(record: _Record) -> np.ndarray[Any, Any]:
    """Return the array of a record, of numbers only."""
    _, shape, dtype, by_columns, content = record.state
    code, order = dtype.arguments[0], dtype.state[1]
    if not re.fullmatch(r"[<>|=][bifu][1248]", order + code):
        raise ValueError(f"an array of {order}{code}")
    flat = np.frombuffer(
        content.encode("latin1") if isinstance(content, str) else content, order + code
    )
    return flat.reshape(shape, order="F" if by_columns else "C")


def _words(record: _Record, rows: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return places and values of a CSR matrix whose rows are those nodes, and its width."""
    begins, columns, values = (
        torch.from_numpy(_array(record.state[part]).astype(kind))
        for part, kind in (("indptr", np.int64), ("indices", np.int64), ("data", np.float32))
    )
    height, width = record.state["_shape"]
    nodes = rows.repeat_interleave(begins.diff())
    if not len(rows) == height == len(begins) - 1 or not len(nodes) == len(columns) == len(values):
        raise ValueError("rows, columns and values do not belong together")
    return torch.stack([nodes, columns]), values, width


def _assembled(said: dict[str, Any]) -> Citations:
    """Put the training and the test part together, which come in separate files."""
    training, testing = (
        torch.from_numpy(_array(said[part]).astype(np.int64)) for part in ("ally", "ty")
    )
    test = torch.tensor(said["test.index"])
    # CiteSeer has isolated nodes that no file names: zeros, between the test nodes
    nodes = max(len(training) + len(testing), int(test.max()) + 1)
    if len(test) != len(testing) or int(test.min()) < len(training):
        raise ValueError("the test nodes are not those of the labels")
    one_hot = training.new_zeros(nodes, training.shape[1])
    one_hot[: len(training)] = training
    one_hot[test] = testing
    (places, values, width), (test_places, test_values, test_width) = (
        _words(said["allx"], torch.arange(len(training))),
        _words(said["tx"], test),
    )
    if width != test_width:
        raise ValueError("the words of training and test are not the same")
    features = torch.sparse_coo_tensor(
        torch.cat([places, test_places], 1),
        torch.cat([values, test_values]),
        (nodes, width),
        check_invariants=True,
    )
    labelled = len(_array(said["y"]))
    if not 0 < labelled < len(training):
        raise ValueError("the labelled nodes are not those of the labels")
    return Citations(
        features.coalesce(),
        _edges(said["graph"], nodes),
        one_hot.argmax(1),
        one_hot.shape[1],
        labelled,
        test,
    )


def _edges(neighbours: dict[int, list[int]], nodes: int) -> Tensor:
    sources = torch.tensor([node for node, others in neighbours.items() for _ in others])
    targets = torch.tensor([other for others in neighbours.values() for other in others])
    ends = torch.stack([sources, targets])
    if ends.min() < 0 or ends.max() >= nodes:
        raise ValueError("edges lead to nodes that are not there")
    keys = torch.unique((targets * nodes + sources)[sources != targets])
    return torch.stack([keys % nodes, keys.div(nodes, rounding_mode="floor")])
