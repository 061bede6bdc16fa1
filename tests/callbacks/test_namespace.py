"""A project is on `pytorch_lightning` or on `lightning.pytorch`; ours are callbacks of both."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("lightning")

CHECK = """
import sys
{imports}
import {package} as package
from ltpl.callbacks import FreezeSparsity, PruneAtEpoch, RewindToEpoch, Trajectory
for kind in (FreezeSparsity, PruneAtEpoch, RewindToEpoch, Trajectory):
    assert issubclass(kind, package.Callback), kind
print("lightning.pytorch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("imports", "package", "other_loaded"),
    [
        ("import ltpl.callbacks", "pytorch_lightning", True),
        ("import ltpl.callbacks", "lightning.pytorch", True),
        pytest.param("import lightning.pytorch", "lightning.pytorch", True, marks=pytest.mark.slow),
        pytest.param(
            "import pytorch_lightning", "pytorch_lightning", False, marks=pytest.mark.slow
        ),
        ("import pytorch_lightning, lightning.pytorch", "lightning.pytorch", True),
    ],
)
def test_callbacks_belong_to_the_package_of_the_project(
    imports: str, package: str, other_loaded: bool
) -> None:
    code = CHECK.format(imports=imports, package=package)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(other_loaded)


def test_the_second_package_is_not_missed_where_it_is_not_installed() -> None:
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "lightning":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "lightning" else real(name, *rest)
from ltpl.callbacks import PruneAtEpoch
import pytorch_lightning
assert issubclass(PruneAtEpoch, pytorch_lightning.Callback)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
