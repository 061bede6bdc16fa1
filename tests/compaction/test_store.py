"""Compacted networks in files: read back equal, by safe means, or refused."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_model import Small
from torch import Tensor, nn
from training import Run, channels, outputs, vivid

import ltpl
from ltpl.compaction.store import about
from ltpl.masks import Mask
from ltpl.models import LeNet5, PreResNet, ResNet

SLOW = pytest.mark.slow
IMAGE = (2, 3, 16, 16)


class Counting(nn.Module):
    """Numbers of channels in its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.Conv2d(6, 16, 5)
        self.hidden, self.head = nn.Linear(400, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.norm(self.one(x)).relu(), 2)
        x = nn.functional.max_pool2d(self.two(x).relu(), 2)
        return self.head(self.hidden(x.view(-1, 400)).relu())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.head(self.other(self.one(x).relu()))


class Folding(nn.Module):
    """What is pruned says sigmoid(0) to a layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.two = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.norm(self.one(x)).sigmoid())


class Buffers(nn.Module):
    """One buffer is saved, the other is not; both have channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.register_buffer("saved", torch.rand(8))
        self.register_buffer("passing", torch.rand(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two((self.norm(self.one(x)).relu() * self.saved) * self.passing)


Make = Callable[[], nn.Module]
NETWORKS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "ResNet A": (lambda: ResNet(8), IMAGE),
    "ResNet B": (lambda: ResNet(8, shortcut="B"), IMAGE),
    "PreResNet": (lambda: PreResNet(11), IMAGE),
    "LeNet": (Counting, (2, 1, 32, 32)),
    "tied": (Tied, (5, 8)),
    "folding": (Folding, (5, 8)),
    "buffers": (Buffers, (5, 8)),
    "own": (lambda: Small(6), (2, 2, 8, 8)),
}
every = pytest.mark.parametrize("name", NETWORKS)


def compacted(name: str, share: float = 0.5) -> tuple[nn.Module, nn.Module, Tensor, Make]:
    """Return masked and compacted network, an input, and how to make a dense one."""
    make, shape = NETWORKS[name]
    net, x = vivid(make()), torch.randn(shape, dtype=torch.float64)
    mask = channels(net, share)
    small = ltpl.compact(net, mask, x)
    mask.apply_(net)
    return net, small, x, lambda: make().double()


def far(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    return float((outputs(one, x) - outputs(other, x)).abs().max())


@every
def test_a_file_gives_the_same_network(name: str, tmp_path: Path) -> None:
    masked, small, x, make = compacted(name)
    ltpl.save(small, path := tmp_path / "net.safetensors", about={"accuracy": 0.5})
    for found in (ltpl.load(path, make()), ltpl.load(path, make().float())):
        assert torch.equal(outputs(found, x), outputs(small, x))
        assert found.state_dict().keys() == small.state_dict().keys()
    assert far(found, masked, x) < 1e-9
    assert about(path) == {"accuracy": 0.5}
    found.train()(x).sum().backward()
    assert all(p.grad is not None for p in found.parameters())


@every
def test_it_is_a_module_like_any_other(name: str) -> None:
    _, small, x, _ = compacted(name)
    expected = outputs(small, x)
    twin = copy.deepcopy(small)
    assert torch.equal(outputs(twin, x), expected)
    state = pickle.loads(pickle.dumps(small.state_dict()))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    twin.load_state_dict(state)
    assert torch.equal(outputs(twin, x), expected)
    assert torch.equal(outputs(small, x), expected)


@every
def test_it_can_be_exported(name: str, tmp_path: Path) -> None:
    _, small, x, _ = compacted(name)
    expected = outputs(small, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(small.eval(), (x,)), tmp_path / "net.pt2")
        found = torch.export.load(tmp_path / "net.pt2").module()
    assert float((found(x).detach() - expected).abs().max()) < 1e-9


@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=SLOW) for n in ("PreResNet", "LeNet")), "folding"]
)
def test_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    _, small, x, _ = compacted(name)
    small, x = small.float().eval(), x.float()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(small, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert float((torch.from_numpy(found) - outputs(small, x)).abs().max()) < 1e-4


@every
def test_trained_on_and_compacted_once_more(name: str, tmp_path: Path) -> None:
    _, small, x, make = compacted(name, 0.3)
    run = Run(small, lambda net: [torch.optim.SGD(net.parameters(), 0.01)])
    run.step(x, torch.randint(3, (len(x),)))
    mask = channels(small, 0.3)
    smaller = ltpl.compact(small, mask, x)
    mask.apply_(small)
    assert far(smaller, small, x) < 1e-9
    ltpl.save(smaller, tmp_path / "net.safetensors")
    found = ltpl.load(tmp_path / "net.safetensors", make())
    assert torch.equal(outputs(found, x), outputs(smaller, x))


def test_our_networks_need_no_model(tmp_path: Path) -> None:
    x = torch.randn(2, 1, 28, 28)
    net = LeNet5("lecun")
    keep = torch.arange(6) % 2 == 0
    kernels = keep.view(6, 1, 1, 1).expand(6, 1, 5, 5)
    mask = Mask({"features.0.bias": keep, "features.0.weight": kernels})
    ltpl.save(ltpl.compact(net, mask, x), tmp_path / "compact.safetensors")
    random = torch.get_rng_state()
    found = ltpl.load(tmp_path)
    assert torch.equal(random, torch.get_rng_state())
    assert found.features[0].out_channels == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    _, small, x, make = compacted("own")
    small.to(dtype)
    ltpl.save(small, tmp_path / "net.safetensors")
    found = ltpl.load(tmp_path / "net.safetensors", make().float())
    assert found.head.weight.dtype == dtype
    assert torch.equal(outputs(found, x.to(dtype)), outputs(small, x.to(dtype)))


def in_another_process(code: str) -> str:
    start = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport torch, ltpl\n"
    command = [sys.executable, "-c", start + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_another_process_with_the_class_alone(tmp_path: Path) -> None:
    _, small, x, _ = compacted("own")
    ltpl.save(small, path := tmp_path / "net.safetensors", arguments={"width": 6})
    torch.save((x, outputs(small, x)), tmp_path / "expected.pt")
    code = f"""
x, expected = torch.load({str(tmp_path / "expected.pt")!r})
try:
    ltpl.load({str(path)!r})
except ValueError as error:
    print(error)
import small_model
assert torch.equal(ltpl.load({str(path)!r}).eval()(x), expected)
assert torch.equal(ltpl.load({str(path)!r}, small_model.Small(6)).eval()(x), expected)
"""
    said = in_another_process(code)
    assert "holds a Small of small_model, which is not imported here: import it first" in said


def test_networks_of_torchvision(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    net = models.resnet18(num_classes=3)
    x = torch.randn(2, 3, 32, 32)
    small = ltpl.compact(net, channels(net.float(), 0.3), x)
    ltpl.save(small, path := tmp_path / "net.safetensors")
    found = ltpl.load(path, models.resnet18(num_classes=3))
    assert torch.equal(outputs(found, x), outputs(small, x))
    with pytest.raises(ValueError, match=r"not what it is called with: give load\(path, model="):
        ltpl.load(path)
    other = models.resnet34(num_classes=3)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r"does not fit ResNet: layer1\.2\.bn1\.bias"):
        ltpl.load(path, other)
    assert all(torch.equal(v, before[n]) for n, v in other.state_dict().items())
