import pytest
import torch
from torch import nn

from ltpl.masks import Mask, live_path
from ltpl.masks.paths import cut_off
from ltpl.masks.select import prunable


def full(model):
    return {n: torch.ones_like(p, dtype=torch.bool) for n, p in prunable(model).items()}


def mlp(*extra):
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), *extra)


def connected(masks):
    """Say by graph search whether an input reaches an output."""
    reached = set(range(masks[0].shape[1]))
    for mask in masks:
        reached = {i for i in range(mask.shape[0]) if any(mask[i, j] for j in reached)}
    return bool(reached)


def test_a_path_is_found_exactly_where_a_graph_search_finds_one():
    model, found = mlp(nn.Tanh(), nn.Linear(4, 3)), set()
    for _ in range(40):
        keep = {n: torch.rand(m.shape) < 0.12 for n, m in full(model).items()}
        expected = connected(list(keep.values()))
        assert live_path(model, Mask(keep), torch.rand(2, 6)) == expected
        found.add(expected)
    assert found == {True, False}


@pytest.mark.parametrize("end", [nn.Identity(), nn.LogSoftmax(-1), nn.Softmax(-1), nn.Sigmoid()])
def test_what_the_network_ends_in_does_not_matter(end):
    """An output that is never zero is no sign of a path."""
    model = mlp(end)
    batch = torch.rand(2, 6), torch.tensor([0, 1])
    keep = full(model)
    assert live_path(model, Mask(keep), batch)
    keep["2.weight"] = torch.zeros(4, 5, dtype=torch.bool)
    assert not live_path(model, Mask(keep), batch)


def test_biases_are_no_path():
    model = mlp(nn.Linear(4, 2))
    keep = full(model)
    keep["0.weight"] = torch.zeros(5, 6, dtype=torch.bool)
    assert not live_path(model, Mask(keep), torch.rand(2, 6))


def test_large_biases_hide_no_path():
    model = mlp(nn.Tanh())
    nn.init.constant_(model[2].bias, 1e20)
    assert live_path(model, Mask(full(model)), torch.rand(2, 6))


def test_running_means_of_normalisation_are_no_path():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3))
    for _ in range(3):
        model(torch.randn(8, 1, 9, 9) + 5)
    keep = full(model)
    assert live_path(model, Mask(keep), torch.rand(2, 1, 9, 9))
    keep["0.weight"] = torch.zeros(3, 1, 3, 3, dtype=torch.bool)
    assert not live_path(model, Mask(keep), torch.rand(2, 1, 9, 9))


def test_a_shortcut_is_a_path():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(x + self.inner(x))

    model = Residual()
    keep = full(model)
    keep["inner.weight"] = torch.zeros(6, 6, dtype=torch.bool)
    assert live_path(model, Mask(keep), torch.rand(2, 6))
    keep["head.weight"] = torch.zeros(2, 6, dtype=torch.bool)
    assert not live_path(model, Mask(keep), torch.rand(2, 6))


def test_weights_of_one_magnitude_and_a_normalised_input_have_a_path():
    """Equal logits after a softmax, or ones after a LayerNorm, must raise no false alarm."""
    model = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 50), nn.Linear(50, 4), nn.LogSoftmax(-1))
    for index in (1, 2):
        nn.init.constant_(model[index].weight, -0.1)
    assert live_path(model, Mask(full(model)), torch.rand(2, 6))


def test_the_model_and_the_random_state_stay_as_they_were():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mask = Mask({n: torch.rand(k.shape) < 0.5 for n, k in full(model).items()})
    batch = torch.rand(2, 6)
    state, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    live_path(model, mask, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [m.training for m in model.modules()]
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_a_mask_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"'fc\.weight' is not known"):
        live_path(mlp(), Mask({"fc.weight": torch.ones(2, 2, dtype=torch.bool)}), torch.rand(1, 6))


def test_a_batch_without_floats_is_refused():
    model = mlp()
    with pytest.raises(ValueError, match="a tensor of floats; this batch starts with dict"):
        live_path(model, Mask(full(model)), {"x": torch.rand(1, 6)})


def test_layers_before_an_empty_one_are_cut_off():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(2, 2))
    nn.init.zeros_(model[2].weight)
    model[:3](torch.rand(3, 4)).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert sorted(cut_off(gradients)) == ["0.bias", "0.weight", "1.bias", "1.weight"]
