"""The import rules of the design: arrows point down only, and little is imported early."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ltpl"
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_utilities", "lightning_fabric"}
HEAVY = {"torchvision", "torch_geometric", "matplotlib"}
CLIENTS = {"models", "modules", "data"}
BELOW = {  # room -> rooms of ours that it may import
    "masks": set(),
    "tickets": {"masks"},
    "models": set(),
    "data": set(),
    "modules": {"models"},
    "callbacks": {"distillation", "compaction", "tickets", "masks"},
    "distillation": {"compaction", "tickets", "masks"},
    "compaction": {"tickets", "masks"},
    "sparse": {"compaction", "tickets", "masks"},
    "report": {"tickets", "masks"},
    "rounds": {"callbacks", "report", "tickets", "masks"},
}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_arrows_point_down(file: Path) -> None:
    parts = file.relative_to(PACKAGE).parts
    ours = {name.split(".")[1] for name in imports(file) if name.startswith("ltpl.")}
    others = {name.split(".")[0] for name in imports(file)}
    if len(parts) == 1:
        assert "cli" not in ours or parts[0] == "__main__.py"
        return
    room = parts[0]
    assert ours <= BELOW[room] | {room}
    if room in ("masks", "tickets", "models", "distillation"):
        assert not others & LIGHTNING
    if room not in CLIENTS:
        assert not others & (HEAVY - {"matplotlib"} if room == "report" else HEAVY)


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["ltpl", "ltpl.masks", "ltpl.tickets"])
def test_the_lower_rooms_import_no_lightning(module: str) -> None:
    code = f"import sys, {module}; print({LIGHTNING | HEAVY!r} & set(sys.modules))"
    assert in_a_fresh_process(code) == "set()"


def test_callbacks_import_nothing_heavy_of_their_own() -> None:
    code = (
        "import sys, pytorch_lightning; before = set(sys.modules); import ltpl.callbacks;"
        f"print({HEAVY!r} & (set(sys.modules) - before))"
    )
    assert in_a_fresh_process(code) == "set()"


def test_callbacks_load_what_exports_graphs_only_when_they_need_it() -> None:
    code = (
        "import sys, ltpl.callbacks; print([m for m in sys.modules if m.startswith('ltpl.comp')])"
    )
    assert in_a_fresh_process(code) == "[]"


def test_it_works_where_torchvision_and_torch_geometric_are_not_installed() -> None:
    code = """
import sys, importlib.metadata as metadata
absent = {"torchvision", "torch_geometric", "torch-geometric"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(name, name=name)
def hidden(real):
    def look(name):
        if name in absent:
            raise metadata.PackageNotFoundError(name)
        return real(name)
    return look
metadata.version, metadata.distribution = map(hidden, (metadata.version, metadata.distribution))
sys.meta_path.insert(0, Absent())
import ltpl, ltpl.callbacks, ltpl.cli, torch
from ltpl.masks import prune
print(prune(torch.nn.Linear(4, 4), 0.5).kept)
"""
    assert in_a_fresh_process(code) == "8"
