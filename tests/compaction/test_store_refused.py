"""Files that are no compacted networks, or no longer: refused, and nothing in them is run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_model import Small

import ltpl
from ltpl.compaction.spec import Spec, remember, spec_of
from ltpl.compaction.store import FORMAT
from ltpl.tickets.files import load_state, save_state


def in_another_process(code: str) -> str:
    start = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport torch, ltpl\n"
    command = [sys.executable, "-c", start + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def stored(tmp_path: Path, **changes: Any) -> Path:
    """Write a file that looks right, and says something else of its class."""
    small = ltpl.compact(Small(6), None, torch.randn(2, 2, 8, 8))
    ltpl.save(small, path := tmp_path / "net.safetensors", arguments={"width": 6})
    state = load_state(path, FORMAT)
    save_state(path, {**state, "spec": {**state["spec"], **changes}}, FORMAT)
    return path


@pytest.mark.parametrize(
    "named",
    [
        "os:system",
        "os:_Environ",
        "builtins:eval",
        "subprocess:Popen",
        "small_model:not_a_network",
        "small_model:nothing",
        "torch:nn.functional.linear",
        "torchvision.nothing:Small",
        "ltpl.nothing:Small",
        "nothing:Small",
        "",
    ],
)
def test_only_networks_are_made(named: str, tmp_path: Path) -> None:
    path = stored(tmp_path, network=named, arguments={"command": "exit 1"})
    with pytest.raises(ValueError, match="which is not imported here"):
        ltpl.load(path)


# torch-geometric compiles a TorchScript function when it is imported
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_no_code_is_written_from_the_arguments_of_a_file(tmp_path: Path) -> None:
    """PyG's Sequential pastes its arguments into code, which it runs."""
    Sequential = pytest.importorskip("torch_geometric.nn").Sequential
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    arguments = {"input_args": f"x: {code}", "modules": []}
    with contextlib.suppress(Exception):
        Sequential(**arguments)
    assert mark.exists()
    mark.unlink()
    path = stored(tmp_path, network="torch_geometric.nn:Sequential", arguments=arguments)
    with pytest.raises(ValueError, match="which no file may name"):
        ltpl.load(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("torch.nn:Linear", {"in_features": 10**9, "out_features": 10**6}),
        ("ltpl.models:MLP", {"hidden": [10**8, 10**8]}),
        ("ltpl.models:ResNet", {"depth": 10**9 * 6 + 2}),
        ("small_model:Small", {"width": 10**9}),
    ],
)
def test_a_network_without_end_is_not_made(
    network: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    path = stored(tmp_path, network=network, arguments=arguments)
    with pytest.raises(ValueError, match=r"cannot be made with .*(it would have more than|6n)"):
        ltpl.load(path)


def test_nothing_is_imported_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('it ran')")
    path = stored(tmp_path, network="trap:Small")
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
try:
    ltpl.load({str(path)!r})
except ValueError:
    print("trap" in sys.modules)
"""
    assert in_another_process(code) == "False"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": {"width": "six"}}, "Small cannot be made with"),
        ({"arguments": {"depth": 6}}, "Small cannot be made with"),
        ({"biases": ["../../head"]}, "does not fit Small"),
        ({"selections": {"../x": [0]}}, "does not fit Small"),
        ({"biases": ["nowhere"]}, "does not fit Small"),
        ({"selections": {"nowhere": [0]}}, "does not fit Small"),
        ({"more": 1}, "does not say how a network was compacted"),
        ({"literals": [[{"path": ""}]]}, "does not say how a network was compacted"),
    ],
)
def test_a_file_that_says_nonsense_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        ltpl.load(stored(tmp_path, **changes))


def test_a_changed_or_broken_file_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        ltpl.load(path)
    path.write_bytes(whole[:-4] + bytes(4))
    with pytest.raises(ValueError, match="was changed after it was written"):
        ltpl.load(path)
    path.write_bytes(whole.replace(b"small_model:Small", b"small_model:Smell"))
    with pytest.raises(ValueError, match="was changed after it was written"):
        ltpl.load(path)
    save_file({"x": torch.ones(1)}, path, metadata={"format": "other"})
    with pytest.raises(ValueError, match=r"is no ltpl\.compact/1"):
        ltpl.load(path)
    with pytest.raises(FileNotFoundError):
        ltpl.load(tmp_path / "nowhere")


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    with safe_open(stored(tmp_path), framework="pt") as file:
        assert file.metadata()["format"] == FORMAT


def test_a_process_killed_while_saving_leaves_the_old_file(tmp_path: Path) -> None:
    path = stored(tmp_path)
    before = path.read_bytes()
    code = f"""
import os, small_model
import ltpl.masks.files as files
write = files.save_file
def dies(tensors, beside, **more):
    write(tensors, beside, **more)
    beside.write_bytes(beside.read_bytes()[:100])
    os._exit(0)
files.save_file = dies
ltpl.save(small_model.Small(4), {str(path)!r})
"""
    in_another_process(code)
    assert path.read_bytes() == before
    assert ltpl.load(path).head.in_features == 6


def test_what_a_class_calls_its_arguments_may_be_anything(tmp_path: Path) -> None:
    net = Small(6)
    net.arguments = os.environ
    remember(net, Spec())
    assert spec_of(Small(4)).arguments is None
    net = Small(6)
    net.arguments = object()
    small = ltpl.compact(net, None, torch.randn(2, 2, 8, 8))
    ltpl.save(small, path := tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="not what it is called with"):
        ltpl.load(path)
