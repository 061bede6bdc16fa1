from __future__ import annotations

import builtins
import os
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from ltpl.data.planetoid import PARTS, file_names, read

ROOT = Path(os.environ.get("LTPL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
RAW = ROOT.absolute() / "Cora" / "raw"
wants_cora = pytest.mark.skipif(
    not RAW.is_dir(), reason=f"no Cora/raw in {ROOT}; LTPL_DATA names the folder that holds it"
)
WORDS, CLASSES = 9, 4


def contents(test: list[int], trained: int = 12) -> dict[str, Any]:
    """Return the contents of files: `trained` nodes, then those of `test`, with words at random."""
    nodes = max(test) + 1

    def words(rows: int) -> csr_matrix:
        return csr_matrix(np.random.rand(rows, WORDS) * (np.random.rand(rows, WORDS) > 0.5))

    def labels(rows: int) -> np.ndarray:
        return np.eye(CLASSES, dtype=np.int32)[np.random.randint(CLASSES, size=rows)]

    graph = defaultdict(list)
    for _ in range(3 * nodes):
        source, target = (int(node) for node in np.random.randint(nodes, size=2))
        graph[source].append(target)  # with loops, and some twice
        graph[target].append(source)
    allx, ally = words(trained), labels(trained)
    return {
        "x": allx[:5],
        "y": ally[:5],
        "allx": allx,
        "ally": ally,
        "tx": words(len(test)),
        "ty": labels(len(test)),
        "graph": graph,
        "test.index": "\n".join(map(str, test)) + "\n",
    }


def write(raw: Path, name: str, said: dict[str, Any]) -> Path:
    raw.mkdir(parents=True)
    for part, file in zip(PARTS, file_names(name), strict=True):
        content = said[part]
        data = content.encode() if isinstance(content, str) else content
        (raw / file).write_bytes(data if isinstance(data, bytes) else pickle.dumps(data, 4))
    return raw


def must_equal_pyg(raw: Path, name: str) -> None:
    pytest.importorskip("torch_geometric")
    from torch_geometric.io import read_planetoid_data

    ours, theirs = read(raw, name), read_planetoid_data(str(raw), name)
    assert torch.equal(ours.features.to_dense(), theirs.x)
    assert ours.features.is_coalesced()
    assert torch.equal(ours.edges, theirs.edge_index)
    assert torch.equal(ours.labels, theirs.y)
    assert ours.labelled == int(theirs.train_mask.sum())
    assert torch.equal(ours.test.sort().values, theirs.test_mask.nonzero().flatten())


@wants_cora
@pytest.mark.filterwarnings("ignore")  # PyG reads with numpy's names of 2016
def test_cora_is_what_pyg_reads_bit_for_bit() -> None:
    must_equal_pyg(RAW, "Cora")
    cora = read(RAW, "Cora")
    assert cora.classes == 7
    assert cora.features.shape == (2708, 1433)
    assert cora.edges.shape == (2, 10_556)


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("Cora", [603, 600, 602, 601, 605, 604]),
        ("CiteSeer", [603, 600, 607, 601, 605, 604]),  # the nodes 602 and 606 are in no file
    ],
)
def test_files_are_what_pyg_reads(tmp_path: Path, name: str, test: list[int]) -> None:
    must_equal_pyg(write(tmp_path / "raw", name, contents(test, trained=600)), name)


def test_isolated_nodes_have_no_words_and_are_no_test_nodes(tmp_path: Path) -> None:
    found = read(write(tmp_path / "raw", "CiteSeer", contents([15, 12, 13])), "CiteSeer")
    assert len(found.labels) == 16
    assert not found.features.to_dense()[14].any()
    assert 14 not in found.test


def of_python_2(array: np.ndarray) -> bytes:
    """Return an array of 32-bit numbers as Python 2 and the numpy of its time pickled it."""
    size = len(array.tobytes()).to_bytes(4, "little")
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01K%cK%c\x86" % array.shape
        + b"cnumpy\ndtype\nU\x02i4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        + b"K\x00tb"
        + (b"\x88" if array.flags.f_contiguous and not array.flags.c_contiguous else b"\x89")
        + b"T"
        + size
        + array.tobytes("A")
        + b"tb."
    )


@pytest.mark.parametrize("order", ["C", "F"])
def test_files_of_python_2_are_read(tmp_path: Path, order: str) -> None:
    said = contents([12, 13, 14])
    labels = said["ally"]
    said["ally"] = of_python_2(np.asarray(labels, order=order))
    found = read(write(tmp_path / "raw", "Cora", said), "Cora")
    assert found.labels[:12].tolist() == labels.argmax(1).tolist()


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.asked = function, arguments

    def __reduce__(self) -> Any:
        return self.asked


@pytest.mark.parametrize("part", [part for part in PARTS if part != "test.index"])
@pytest.mark.parametrize("name", ["system", "eval", "inside"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, part: str, name: str) -> None:
    marker = tmp_path / "marker"
    evil = {
        "system": Evil(os.system, f"touch {marker}"),
        "eval": Evil(builtins.eval, f"__import__('os').mkdir({str(marker)!r})"),
        "inside": [defaultdict(list), Evil(os.mkdir, str(marker))],
    }[name]
    said = contents([12, 13, 14])
    said[part] = pickle.dumps(evil)
    pickle.loads(said[part])
    assert marker.exists()  # it would
    marker.rmdir() if marker.is_dir() else marker.unlink()
    raw = write(tmp_path / "raw", "Cora", said)
    with pytest.raises(ValueError, match="nothing in it was run") as raised:
        read(raw, "Cora")
    assert not marker.exists()
    told = str(raised.value)
    asked = {"system": f"{os.name}.system", "eval": "builtins.eval", "inside": f"{os.name}.mkdir"}
    assert told.startswith(f"data_dir: {raw / f'ind.cora.{part}'} is no file of Planetoid: it asks")
    assert f"it asks for {asked[name]}; nothing in it was run" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    "asked",
    [
        b"cnumpy\nsave\n",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n",
        b"cscipy.sparse.csr\ncsr_matrix.__init__\n",
        b"cbuiltins\nexec\n",
        b"ccollections\nnamedtuple\n",
        b"ccodecs\nopen\n",
    ],
)
def test_only_what_the_published_files_name_is_known(tmp_path: Path, asked: bytes) -> None:
    said = contents([12, 13, 14])
    said["x"] = b"\x80\x02" + asked + b")R."
    with pytest.raises(ValueError, match=r"it asks for \S+; nothing in it was run"):
        read(write(tmp_path / "raw", "Cora", said), "Cora")


def test_names_in_a_pickle_import_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write(tmp_path / "raw", "Cora", contents([12, 13, 14]))
    before = builtins.__import__

    def watched(name: str, *given: Any, **more: Any) -> Any:
        assert "scipy" not in name
        return before(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", watched)
    read(raw, "Cora")


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("x", b""),
        ("allx", b"no pickle at all"),
        ("graph", pickle.dumps({"a": 1})[:-4]),
        ("test.index", "12\nthirteen\n14\n"),
        ("ally", pickle.dumps("a word")),
        ("ally", np.array([["a"] * CLASSES] * 12)),
        ("ally", np.array([[None] * CLASSES] * 12)),
        ("ally", np.eye(12, CLASSES).astype("datetime64[s]")),
        ("tx", np.eye(3)),
        ("tx", csr_matrix(np.eye(4, WORDS))),
        ("tx", csr_matrix(np.eye(3, WORDS + 1))),
        ("ty", np.eye(4)),
        ("y", np.eye(12)),
        ("graph", {0: [1], 1: [99]}),
        ("graph", {0: [-1]}),
        ("graph", {}),
        ("graph", [1, 2]),
        ("test.index", "3\n13\n14\n"),
        ("test.index", ""),
    ],
)
def test_broken_files_are_said_in_one_line(tmp_path: Path, part: str, content: Any) -> None:
    said = contents([12, 13, 14])
    said[part] = content
    raw = write(tmp_path / "raw", "Cora", said)
    with pytest.raises(ValueError, match=r"^data_dir: .* download=True\.$") as raised:
        read(raw, "Cora")
    assert str(raw) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("what", ["column", "height"])
def test_a_matrix_that_contradicts_itself_is_broken_too(tmp_path: Path, what: str) -> None:
    said = contents([12, 13, 14])
    if what == "column":
        said["tx"].indices[0] = WORDS + 3
    else:
        said["tx"]._shape = (7, WORDS)
    raw = write(tmp_path / "raw", "Cora", said)
    with pytest.raises(ValueError, match="are not those of Cora"):
        read(raw, "Cora")


def test_missing_files_are_named_with_the_folder_and_the_cure(tmp_path: Path) -> None:
    raw = write(tmp_path / "Cora" / "raw", "Cora", contents([12, 13, 14]))
    (raw / "ind.cora.ty").unlink()
    with pytest.raises(ValueError, match="not found") as raised:
        read(raw, "Cora")
    assert str(raised.value) == (
        f"data_dir: ind.cora.ty not found in {raw}; put the files of Planetoid there, name the "
        "folder that holds Cora/raw, or set download=True."
    )


def test_files_are_read_once_a_process(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", "Cora", contents([12, 13, 14]))
    first = read(raw, "Cora")
    for file in raw.iterdir():
        file.unlink()
    assert read(raw, "Cora") is first
