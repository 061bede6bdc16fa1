"""Live inputs and paths against counting by hand: products of mask matrices, and searches."""

from __future__ import annotations

from functools import reduce

import pytest
import torch
from torch import Tensor, nn

from ltpl.data.graphs import as_csr
from ltpl.masks import Mask
from ltpl.masks.paths import Live, live
from ltpl.masks.select import prunable
from ltpl.models import (
    GAT,
    GCN,
    GIN,
    ConvNet,
    DenseNet,
    GraphSAGE,
    LeNet5,
    PreResNet,
    ResNet,
)


def some(model: nn.Module, density: float) -> Mask:
    return Mask({n: torch.rand(p.shape) < density for n, p in prunable(model).items()})


def chain(*masks: Tensor) -> Tensor:
    """Paths from each input to each output."""
    return reduce(lambda so_far, mask: mask.double() @ so_far, masks[1:], masks[0].double())


def expected(mask: Mask, *masks: Tensor) -> Live:
    """What a chain of layers has, one matrix after the other."""
    paths = chain(*masks)
    dead = tuple(mask) if not paths.any() else ()
    return Live(int(paths.any(0).sum()), paths.shape[1], float(paths.sum()), dead)


@pytest.mark.parametrize("middle", [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.Softmax(-1)])
def test_paths_of_a_perceptron_are_products_of_its_masks(middle: nn.Module) -> None:
    model = nn.Sequential(
        nn.Linear(9, 6), nn.BatchNorm1d(6), middle, nn.Dropout(), nn.Linear(6, 5), nn.Linear(5, 3)
    )
    model(torch.randn(8, 9) + 3)
    for density in (0.1, 0.2, 0.5, 1.0):
        mask = some(model, density)
        assert live(model, mask, torch.rand(4, 9)) == expected(mask, *mask.values())


def test_a_layer_whose_weights_do_not_meet_the_next_is_dead() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1))
    first = torch.tensor([[True, True, False], [False, False, False]])
    second = torch.tensor([[False, True], [False, True]])
    mask = Mask({"0.weight": first, "2.weight": second, "3.weight": torch.ones(1, 2).bool()})
    assert live(model, mask, torch.rand(1, 3)) == Live(0, 3, 0.0, tuple(mask))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(x + self.inner(x).relu())}


def test_a_shortcut_keeps_paths_around_a_dead_layer() -> None:
    model = Residual()
    mask = some(model, 0.4)
    around = chain(torch.eye(6) + mask["inner.weight"].double(), mask["head.weight"])
    found = live(model, mask, torch.rand(3, 6))
    assert (found.paths, found.inputs) == (float(around.sum()), int(around.any(0).sum()))
    empty = Mask({**mask, "inner.weight": torch.zeros(6, 6).bool()})
    assert live(model, empty, torch.rand(3, 6)).dead == ("inner.weight",)


def test_every_position_of_a_kernel_is_a_path() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 4),
    )
    mask = some(model, 0.3)
    unfolded = nn.functional.conv2d(
        torch.ones(1, 2, 8, 8, dtype=torch.float64), mask["0.weight"].double(), padding=1
    )
    paths = mask["6.weight"].double() @ unfolded.sum((0, 2, 3))
    found = live(model, mask, torch.rand(5, 2, 8, 8))
    assert found.paths == float(paths.sum())
    assert found.inputs_total == 2 * 8 * 8


@pytest.mark.parametrize(
    "make",
    [
        LeNet5,
        lambda: ConvNet(depth=2),
        lambda: ResNet(depth=8),
        lambda: PreResNet(depth=11),
        lambda: DenseNet(depth=10),
    ],
)
def test_dense_networks_of_images_read_every_pixel(make: object) -> None:
    model = make()  # type: ignore[operator]
    shape = (1, 28, 28) if isinstance(model, LeNet5) else (3, 32, 32)
    mask = Mask.dense(prunable(model))
    found = live(model, mask, torch.rand(2, *shape))
    assert found.inputs == found.inputs_total == torch.Size(shape).numel()
    assert found.paths is not None
    assert found.paths > mask.total
    assert found.dead == ()


def test_thinned_norms_count_by_their_gammas() -> None:
    """A mask over scaling factors: beta is no path."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    keep = torch.tensor([True, False, True])
    mask = Mask({"1.weight": keep, "1.bias": torch.ones(3).bool()})
    assert live(model, mask, torch.rand(2, 4)) == Live(4, 4, 4.0 * 2 * 2, ())


def ring(nodes: int) -> Tensor:
    first = torch.arange(nodes)
    return torch.stack([first, first.roll(1)])


def test_neighbours_do_not_multiply_the_paths_of_graph_networks() -> None:
    pytest.importorskip("torch_geometric")
    x = torch.rand(9, 7)
    sparse = as_csr((x * (x > 0.5)).to_sparse())
    for features in (x, sparse):
        for density in (0.3, 1.0):
            gcn = GCN(inputs=7, hidden=5, outputs=3)
            mask = some(gcn, density)
            assert live(gcn, mask, features, ring(9)) == expected(mask, *mask.values())
            gat = GAT(inputs=7, hidden=2, heads=3, outputs=4, output_heads=2)
            mask = some(gat, density)
            assert live(gat, mask, features, ring(9)) == expected(mask, *mask.values())
            gin = GIN(inputs=7, hidden=5, outputs=3, train_eps=True)
            mask = some(gin, density)
            assert live(gin, mask, features, ring(9)) == expected(mask, *mask.values())
            sage = GraphSAGE(inputs=7, hidden=5, outputs=3)
            mask = some(sage, density)
            both = [
                mask[f"{layer}.lin_l.weight"].double() + mask[f"{layer}.lin_r.weight"].double()
                for layer in ("hidden.0", "output")
            ]
            found = live(sage, mask, features, ring(9))
            assert (found.inputs, found.paths) == (
                int(chain(*both).any(0).sum()),
                float(chain(*both).sum()),
            )


class OfData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = GCN(inputs=7, hidden=4, outputs=2)

    def forward(self, data: object) -> Tensor:
        return self.net(data.x, data.edge_index, data.edge_weight)  # type: ignore[attr-defined]


def test_a_network_may_take_the_graph_as_a_whole() -> None:
    pyg = pytest.importorskip("torch_geometric")
    model = OfData()
    data = pyg.data.Data(x=torch.rand(9, 7), edge_index=ring(9), edge_weight=torch.rand(9))
    data.y = torch.zeros(9, dtype=torch.int64)
    before = data.clone()
    mask = some(model, 0.5)
    assert live(model, mask, data) == expected(mask, *mask.values())
    assert all(torch.equal(data[name], before[name]) for name in before.keys())  # noqa: SIM118


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) * self.gate(x).sigmoid())


@pytest.mark.parametrize(
    "model",
    [Gated(), nn.Sequential(nn.Linear(4, 4), nn.MaxPool1d(2), nn.Linear(2, 2)), nn.GRU(4, 4)],
)
def test_of_a_network_that_cannot_be_followed_only_empty_layers_are_known(model: nn.Module) -> None:
    mask = Mask.dense(prunable(model))
    assert live(model, mask, torch.rand(3, 4)) == Live()
    name = next(iter(mask))
    empty = Mask({**mask, name: torch.zeros_like(mask[name])})
    assert live(model, empty, torch.rand(3, 4)) == Live(dead=(name,))


class Beheaded(nn.Module):
    """Its head is called from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_a_layer_that_the_network_never_uses_is_not_called_dead() -> None:
    model = Beheaded()
    mask = Mask.dense(prunable(model))
    assert live(model, mask, torch.rand(3, 4)) == Live()
    used = Mask({"body.weight": mask["body.weight"]})
    assert live(model, used, torch.rand(3, 4)) == Live(4, 4, 12.0, ())


def test_a_compiled_network_is_followed_uncompiled() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model.compile(backend="eager")
    model(torch.rand(2, 4))
    mask = some(model, 0.5)
    assert live(model, mask, torch.rand(3, 4)) == expected(mask, *mask.values())


def test_too_many_paths_to_count_are_still_paths() -> None:
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(180)))
    mask = Mask.dense(prunable(model))
    assert live(model, mask, torch.rand(1, 64)) == Live(64, 64, None, ())
    cut = Mask({**mask, "90.weight": torch.zeros(64, 64).bool()})
    assert live(model, cut, torch.rand(1, 64)).dead == tuple(mask)


def test_counting_leaves_network_and_random_numbers_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mask, x = some(model, 0.5), torch.rand(3, 6)
    state, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    live(model, mask, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [m.training for m in model.modules()]
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_a_mask_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'fc\.weight' is not known"):
        live(nn.Linear(2, 2), Mask({"fc.weight": torch.ones(2, 2).bool()}), torch.rand(1, 2))
