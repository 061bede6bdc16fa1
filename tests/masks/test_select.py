import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from ltpl.masks.select import layer_rates, named_buffers, named_parameters, output_weights, prunable


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Conv2d(6, 16, 5), nn.Flatten(),
        nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 10),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "chosen"),
    [
        (nn.Linear(7, 5), ["weight"]),
        (nn.Linear(10, 1), ["weight"]),
        (nn.Linear(1, 10), ["weight"]),
        (nn.Bilinear(3, 4, 5), ["weight"]),
        (nn.Conv1d(3, 4, 5), ["weight"]),
        (nn.Conv2d(3, 4, 1), ["weight"]),
        (nn.Conv2d(6, 6, 3, groups=6), ["weight"]),
        (nn.Conv3d(1, 1, 2), ["weight"]),
        (nn.ConvTranspose2d(3, 4, 2), ["weight"]),
        (nn.LSTM(3, 4), ["weight_ih_l0", "weight_hh_l0"]),
        (nn.GRUCell(3, 4), ["weight_ih", "weight_hh"]),
        (nn.MultiheadAttention(8, 2), ["in_proj_weight", "out_proj.weight"]),
        (
            nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
            ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_matrices_and_kernels_are_chosen_whatever_holds_them(layer, chosen):
    assert list(prunable(layer)) == chosen
    assert all(parameter is layer.get_parameter(n) for n, parameter in prunable(layer).items())


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.InstanceNorm1d(4, affine=True),
        nn.LayerNorm(4),
        nn.LayerNorm((3, 4)),
        nn.GroupNorm(2, 4),
        nn.RMSNorm((3, 4)),
        nn.Embedding(9, 4),
        nn.EmbeddingBag(9, 4),
        nn.PReLU(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_normalisation_embeddings_and_vectors_are_never_chosen_by_default(layer):
    """Pitfall: pruned gammas kill whole channels; biases and gammas went by default elsewhere."""
    model = nn.ModuleDict({"fc": nn.Linear(4, 4), "other": layer})
    assert list(prunable(model)) == ["fc.weight"]


class Vision(nn.Module):
    """A transformer's stem, with the parameters that hang loose in one."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.pos_embedding = nn.Parameter(torch.randn(1, 17, 8))
        self.register_tokens = nn.Parameter(torch.randn(4, 8))
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.query = nn.Parameter(torch.randn(1, 8))
        self.projection = nn.Parameter(torch.randn(8, 8))
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.relative_position_bias_table = nn.Parameter(torch.randn(9, 2))


def test_tokens_positions_and_scales_that_hang_loose_are_left_out():
    assert list(prunable(Vision())) == ["projection"]


def test_graph_layers_are_chosen_by_shape_without_their_attention_vectors():
    nn_pyg = pytest.importorskip("torch_geometric.nn")
    attention = nn_pyg.GATConv(16, 8, heads=4)
    names = {name for name, _ in attention.named_parameters()}
    assert {"att_src", "att_dst"} < names
    assert list(prunable(attention)) == ["lin.weight"]
    asked = prunable(attention, include="attention")
    assert list(asked) == ["att_src", "att_dst", "lin.weight"]
    assert list(prunable(nn_pyg.GATv2Conv(16, 8, heads=4))) == ["lin_l.weight", "lin_r.weight"]
    assert not isinstance(nn_pyg.Linear(16, 8), nn.Linear)
    assert list(prunable(nn_pyg.Linear(16, 8))) == ["weight"]
    model = nn.ModuleList([nn_pyg.GCNConv(4, 5), nn_pyg.GraphNorm(5), nn_pyg.BatchNorm(5)])
    assert list(prunable(model)) == ["0.lin.weight"]


def test_biases_and_other_kinds_are_added_on_request():
    model = nn.ModuleDict(
        {"emb": nn.Embedding(9, 4), "norm": nn.LayerNorm(4), "fc": nn.Linear(4, 4)}
    )
    assert list(prunable(model, include="embedding")) == ["emb.weight", "fc.weight"]
    assert list(prunable(model, include=["bias", "fc.*"])) == ["norm.bias", "fc.weight", "fc.bias"]
    assert list(prunable(model, include="norm")) == ["norm.weight", "fc.weight"]
    assert list(prunable(nn.ModuleDict({"a": nn.PReLU(3)}), include="vector")) == ["a.weight"]


def test_globs_kinds_and_names_narrow_the_choice():
    model = lenet()
    assert list(prunable(model)) == ["0.weight", "2.weight", "4.weight", "6.weight"]
    assert list(prunable(model, include="linear")) == ["4.weight", "6.weight"]
    assert list(prunable(model, include="conv")) == ["0.weight", "2.weight"]
    assert list(prunable(model, include="[02].*")) == ["0.weight", "2.weight"]
    assert list(prunable(model, include="6.weight")) == ["6.weight"]
    assert list(prunable(model, include=["conv", "6.weight"])) == [
        "0.weight", "2.weight", "6.weight",
    ]  # fmt: skip
    assert list(prunable(model, exclude="6.weight")) == ["0.weight", "2.weight", "4.weight"]
    assert list(prunable(model, exclude=["conv", "6.*"])) == ["4.weight"]
    assert list(prunable(model, include="*.weight", exclude="linear")) == ["0.weight", "2.weight"]
    assert list(prunable(model, include=["linear", "0.bias"])) == [
        "0.bias", "4.weight", "6.weight",
    ]  # fmt: skip


def test_a_glob_does_not_add_what_is_left_out_by_default():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    assert list(prunable(model, include="*")) == ["0.weight"]


def test_tied_parameters_appear_once_under_their_first_name():
    """Pitfall: a tied weight counted twice makes every count wrong."""
    model = nn.ModuleDict({"encoder": nn.Linear(4, 4), "decoder": nn.Linear(4, 4)})
    model["decoder"].weight = model["encoder"].weight
    assert list(prunable(model)) == ["encoder.weight"]
    assert list(prunable(model, include="decoder.weight")) == ["encoder.weight"]
    with pytest.raises(ValueError, match="Nothing to prune"):
        prunable(model, exclude="decoder.*")


@pytest.mark.parametrize("embedding_first", [True, False])
def test_a_head_tied_to_an_embedding_is_left_out(embedding_first):
    layers = {"embedding": nn.Embedding(20, 8), "body": nn.Linear(8, 8), "head": nn.Linear(8, 20)}
    layers["head"].weight = layers["embedding"].weight
    model = nn.ModuleDict(layers if embedding_first else dict(reversed(layers.items())))
    assert list(prunable(model)) == ["body.weight"]
    assert set(prunable(model, include=["head.weight", "body.weight"])) == {
        "body.weight",
        "embedding.weight" if embedding_first else "head.weight",
    }


def test_frozen_parameters_are_left_out_unless_asked():
    model = lenet()
    for parameter in model[:4].parameters():
        parameter.requires_grad_(False)
    assert list(prunable(model)) == ["4.weight", "6.weight"]
    assert list(prunable(model, frozen=True)) == ["0.weight", "2.weight", "4.weight", "6.weight"]


def test_layers_that_are_not_initialised_are_refused_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older torch says that lazy modules are new
        lazy = nn.LazyLinear(5)
    model = nn.Sequential(nn.Linear(4, 4), lazy)
    with pytest.raises(ValueError, match=r"'1\.weight' is not initialised yet"):
        prunable(model)
    assert list(prunable(model, exclude="1.*")) == ["0.weight"]
    model(torch.rand(2, 4))
    assert list(prunable(model)) == ["0.weight", "1.weight"]


def test_of_a_weight_norm_the_direction_is_chosen_and_the_length_is_not():
    for layer in (nn.Linear(6, 5), nn.Conv2d(3, 5, 3), nn.Linear(6, 1), nn.Linear(1, 6)):
        normed = weight_norm(layer)
        (name,) = prunable(normed)
        assert name == "parametrizations.weight.original1"
        assert normed.get_parameter(name).shape == normed.weight.shape
    assert list(prunable(spectral_norm(nn.Linear(6, 5)))) == ["parametrizations.weight.original"]
    model = nn.ModuleDict({"emb": weight_norm(nn.Embedding(9, 4)), "fc": nn.Linear(4, 4)})
    assert list(prunable(model)) == ["fc.weight"]


def test_wrappers_do_not_change_the_names():
    model = lenet()
    compiled = torch.compile(model)
    assert any("_orig_mod." in name for name, _ in compiled.named_parameters())
    assert list(prunable(compiled)) == list(prunable(model))
    assert list(named_parameters(compiled)) == [name for name, _ in model.named_parameters()]
    inner = nn.ModuleDict({"net": torch.compile(nn.Sequential(nn.BatchNorm1d(3)))})
    assert list(named_buffers(inner)) == [
        "net.0.running_mean", "net.0.running_var", "net.0.num_batches_tracked",
    ]  # fmt: skip
    head = nn.ModuleDict({"net": torch.compile(nn.Linear(3, 2))})
    assert list(prunable(head, include="net.weight")) == ["net.weight"]
    assert layer_rates(head, prunable(head), {"net.*": 0.3}) == {"net.weight": 0.3}


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("convs", r"='convs' is not known; did you mean 'conv'\?"),
        (["4.weight", "6.wieght"], r"='6\.wieght' is not known; did you mean '6\.weight'\?"),
        ("head.*", r"='head\.\*' is not known"),
    ],
)
def test_patterns_that_match_nothing_are_refused(option, given, message):
    with pytest.raises(ValueError, match=option + message):
        prunable(lenet(), **{option: given})


def test_nothing_to_prune_is_refused_with_what_was_asked():
    with pytest.raises(ValueError, match=r"Nothing to prune: .* of 8 .*include=None, exclude='\*'"):
        prunable(lenet(), exclude="*")
    with pytest.raises(ValueError, match="Nothing to prune"):
        prunable(nn.BatchNorm1d(3))


def test_the_choice_is_in_the_order_of_the_model():
    assert list(prunable(lenet(), include=["6.*", "0.*"])) == ["0.weight", "6.weight"]


def test_the_output_layer_is_the_last_unless_the_network_states_it():
    model = lenet()
    assert output_weights(model, prunable(model)) == ["6.weight"]

    class Stated(nn.Module):
        output_layer = "classifier"

        def __init__(self):
            super().__init__()
            self.classifier, self.body = nn.Linear(4, 3), nn.Linear(4, 4)

    for model, name in (
        (Stated(), "classifier.weight"),
        (nn.ModuleDict({"net": Stated()}), "net.classifier.weight"),
        (torch.compile(Stated()), "classifier.weight"),
        (nn.ModuleDict({"net": torch.compile(Stated())}), "net.classifier.weight"),
    ):
        assert output_weights(model, prunable(model)) == [name]


def test_rates_resolve_by_kind_output_glob_and_name():
    model = lenet()
    chosen = prunable(model)

    def rates(**given):
        return list(layer_rates(model, chosen, given).values())

    assert list(layer_rates(model, chosen, None).values()) == [1, 1, 1, 1]
    assert rates(output=0.5) == [1, 1, 1, 0.5]
    assert rates(conv=0) == [0, 0, 1, 1]
    assert rates(conv=0.5, linear=0.8, output=0.1) == [0.5, 0.5, 0.8, 0.1]
    assert rates(**{"[04].*": 0.2, "output": 0.5}) == [0.2, 1, 0.2, 0.5]


def test_the_most_specific_rate_counts():
    model = lenet()
    chosen = prunable(model)
    everything = {"linear": 0.9, "output": 0.8, "*.weight": 0.7, "[46].weight": 0.6}
    assert layer_rates(model, chosen, {"6.weight": 0.1, **everything})["6.weight"] == 0.1
    assert layer_rates(model, chosen, {**everything, "6.weight": 0.1})["6.weight"] == 0.1
    assert layer_rates(model, chosen, everything)["6.weight"] == 0.6
    del everything["*.weight"], everything["[46].weight"]
    assert layer_rates(model, chosen, everything)["6.weight"] == 0.8


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"outptu": 0.5}, r"rates='outptu' is not known; did you mean 'output'\?"),
        ({"head.*": 0.5}, r"rates='head\.\*' is not known"),
        ({"6.bias": 0.5}, r"rates='6\.bias' is not known"),
        ({"output": -0.1}, r"rates\['output'\]=-0\.1: a rate is 0 \(exempt\) or a positive"),
        ({"conv": float("nan")}, r"rates\['conv'\]=nan"),
        ({"conv": float("inf")}, r"rates\['conv'\]=inf"),
    ],
)
def test_rates_that_match_nothing_or_are_none_are_refused(rates, message):
    model = lenet()
    with pytest.raises(ValueError, match=message):
        layer_rates(model, prunable(model), rates)


def test_what_was_chosen_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Linear(7, 13), nn.Linear(13, 3))
    with caplog.at_level("INFO", logger="ltpl"):
        prunable(net)
        prunable(net)
    (line,) = caplog.messages
    assert "2 parameters, 130 of 146 weights: 0.weight (13, 7), 1.weight (3, 13)" in line
