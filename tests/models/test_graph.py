from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, elu

from ltpl.masks import prune
from ltpl.masks.select import layer_rates, output_weights, prunable
from ltpl.models.graph import GAT, GCN, GIN, GraphNetwork, GraphSAGE

pyg = pytest.importorskip("torch_geometric.nn")
KINDS = [GCN, GAT, GIN, GraphSAGE]
NODES, FEATURES, CLASSES = 40, 30, 3
QUIET: dict[type, dict[str, float]] = {  # nothing is drawn in training
    GCN: {"dropout": 0.0},
    GAT: {"dropout": 0.0, "attention_dropout": 0.0},
    GIN: {"dropout": 0.0},
    GraphSAGE: {"dropout": 0.0},
}


def small(kind: type[GraphNetwork], **options: Any) -> GraphNetwork:
    return kind(**({"inputs": FEATURES, "outputs": CLASSES} | options))


def features() -> Tensor:
    return torch.rand(NODES, FEATURES) * (torch.rand(NODES, FEATURES) > 0.7)


def edges(number: int = 160) -> Tensor:
    sources = torch.randint(NODES, (number,))
    return torch.stack([sources, (sources + torch.randint(1, NODES, (number,))) % NODES])


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "coo":
        return x.to_sparse()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR", UserWarning)
        return x.to_sparse_csr() if layout == "csr" else x


class Plain(nn.Module):
    """The networks as tutorials write them, on PyG's own layers."""

    def __init__(self, kind: type[GraphNetwork]) -> None:
        super().__init__()
        self.act = elu if kind is GAT else torch.relu
        self.hidden, self.output = nn.ModuleList([self.layer(kind, last=False)]), None
        self.output = self.layer(kind, last=True)

    def layer(self, kind: type[GraphNetwork], last: bool) -> nn.Module:
        first = FEATURES if not last else {GCN: 16, GAT: 64, GIN: 64, GraphSAGE: 256}[kind]
        if kind is GCN:
            return pyg.GCNConv(first, CLASSES if last else 16)
        if kind is GAT:
            heads = {"heads": 1, "concat": False} if last else {"heads": 8}
            return pyg.GATConv(first, CLASSES if last else 8, **heads)
        if kind is GraphSAGE:
            return pyg.SAGEConv(first, CLASSES if last else 256)
        layers = [nn.Linear(first, 64), nn.BatchNorm1d(64), nn.ReLU()]
        layers += [nn.Linear(64, CLASSES)] if last else [nn.Linear(64, 64), nn.BatchNorm1d(64)]
        return pyg.GINConv(nn.Sequential(*layers))

    def forward(self, x: Tensor, edge_index: Tensor, *weight: Tensor) -> Tensor:
        return self.output(self.act(self.hidden[0](x, edge_index, *weight)), edge_index, *weight)


def trained(network: nn.Module, *graph: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    network.zero_grad()
    logits = network(*graph)
    cross_entropy(logits, torch.arange(NODES) % CLASSES).backward()
    return logits.detach(), {n: p.grad.clone() for n, p in network.named_parameters()}


@pytest.mark.parametrize("layout", ["dense", "csr", "coo"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_those_of_the_layers_of_pyg(
    kind: type[GraphNetwork], layout: str
) -> None:
    network, plain = small(kind, **QUIET[kind]), Plain(kind)
    plain.load_state_dict(network.state_dict())  # the names are PyG's too
    x, edge_index = features(), edges()
    for _ in range(2):  # the second time from memory
        ours, gradients = trained(network, laid_out(x, layout), edge_index)
        theirs, expected = trained(plain, x, edge_index)
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(gradients, expected, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("layout", ["csr", "coo"])
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_features_give_the_dense_logits_in_evaluation(
    kind: type[GraphNetwork], layout: str
) -> None:
    network, x, edge_index = small(kind).eval(), features(), edges()
    sparse = laid_out(x, layout)
    with torch.inference_mode():
        torch.testing.assert_close(
            network(sparse, edge_index), network(x, edge_index), atol=1e-5, rtol=1e-4
        )
        (sparse.values() if layout == "csr" else sparse._values()).mul_(3)
        torch.testing.assert_close(
            network(sparse, edge_index), network(3 * x, edge_index), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_by_default_weights_are_drawn_as_by_pyg_and_nothing_more(kind: type[GraphNetwork]) -> None:
    torch.manual_seed(5)
    plain = Plain(kind)
    torch.manual_seed(5)
    network = small(kind)
    torch.testing.assert_close(network.state_dict(), plain.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_training_drops_at_random_and_evaluation_does_not(kind: type[GraphNetwork]) -> None:
    network, edge_index = small(kind), edges()
    x = laid_out(features(), "csr")
    assert not torch.equal(network(x, edge_index), network(x, edge_index))
    network.eval()
    assert torch.equal(network(x, edge_index), network(x, edge_index))


def test_hidden_features_are_dropped_too() -> None:
    network, x, edge_index = small(GCN), features(), edges()
    seen: list[Tensor] = []
    network.output.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(x, edge_index)
    network.eval()(x, edge_index)
    dropped, whole = ((h == 0).float().mean() for h in seen)
    assert dropped > whole + 0.1


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        # Kipf and Welling, 2017, section 5.2: 1,433 words, 16 hidden, 7 classes; with biases
        (GCN, 1433 * 16 + 16 + 16 * 7 + 7),
        # Velickovic et al., 2018, section 3.3: 8 heads of 8, then one; two attention vectors a head
        (GAT, 1433 * 64 + 3 * 64 + 64 * 7 + 3 * 7),
        # Xu et al., 2019, section 7: MLPs of two layers, batch normalisation on every hidden layer
        (GIN, (1433 * 64 + 64) + (64 * 64 + 64) * 2 + 3 * 128 + (64 * 7 + 7)),
        # Hamilton et al., 2017, algorithm 1: one matrix for the node, one for its neighbours
        (GraphSAGE, 2 * 1433 * 256 + 256 + 2 * 256 * 7 + 7),
    ],
)
def test_the_parameters_are_those_of_the_papers(kind: type[GraphNetwork], count: int) -> None:
    assert sum(p.numel() for p in kind().parameters()) == count


def test_the_published_sizes_on_cora() -> None:
    assert sum(p.numel() for p in GCN().parameters()) == 23_063
    assert sum(p.numel() for p in GAT().parameters()) == 92_373


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_node_sees_as_many_steps_as_there_are_layers(
    kind: type[GraphNetwork], layers: int
) -> None:
    network = small(kind, layers=layers).eval()
    chain = torch.stack([torch.arange(5), torch.arange(1, 6)])
    x = torch.rand(6, FEATURES)
    before = network(x, chain)
    x[0] += 1
    changed = ((network(x, chain) - before).abs() > 1e-7).any(1)
    assert changed.tolist() == [step <= layers for step in range(6)]


def test_edges_lead_from_the_first_row_to_the_second() -> None:
    network = small(GCN, layers=1).eval()
    x = torch.rand(2, FEATURES)
    assert torch.equal(network(x, torch.tensor([[0], [1]]))[0], network(x, edges(0))[0])


def test_logits_follow_the_edges_where_a_cached_layer_does_not() -> None:
    x, edge_index = features(), edges()
    network, cached = small(GCN).eval(), pyg.GCNConv(FEATURES, CLASSES, cached=True)
    before = network(x, edge_index), cached(x, edge_index)
    fewer = edge_index[:, ::2].contiguous()
    assert torch.equal(cached(x, fewer), before[1])  # the trap
    expected = copy.deepcopy(network)(x, fewer)
    assert torch.equal(network(x, fewer), expected)
    assert not torch.equal(expected, before[0])
    assert torch.equal(network(x, edge_index), before[0])
    edge_index[:, :80] = fewer  # in place
    edge_index[:, 80:] = edge_index[:, :1]
    assert torch.equal(network(x, edge_index), copy.deepcopy(network)(x, edge_index))


def test_logits_follow_the_edge_weights() -> None:
    x, edge_index, weight = features(), edges(), torch.rand(160)
    network = small(GCN).eval()
    before = network(x, edge_index, weight)
    assert not torch.equal(network(x, edge_index), before)
    weight[:40] = 0
    torch.testing.assert_close(
        network(x, edge_index, weight), network(x, edge_index[:, 40:], weight[40:])
    )
    plain = Plain(GCN)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(x, edge_index, weight), plain(x, edge_index, weight))


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_edge_weights_can_be_learned(layout: str) -> None:
    x, edge_index = features(), edges()
    network, plain = small(GCN, dropout=0.0), Plain(GCN)
    plain.load_state_dict(network.state_dict())
    gradients = []
    for model, given in ((network, laid_out(x, layout)), (plain, x)):
        weight = torch.ones(160, requires_grad=True)
        trained(model, given, edge_index, weight)
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].count_nonzero() > 0


def test_the_adjacency_is_normalised_once_for_all_layers_and_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ltpl.models import graph_layers

    calls = []
    gcn_norm, turned = graph_layers.gcn_norm, graph_layers.turned
    monkeypatch.setattr(
        graph_layers, "gcn_norm", lambda *given: calls.append("norm") or gcn_norm(*given)
    )
    monkeypatch.setattr(
        graph_layers,
        "turned",
        lambda *given, **size: calls.append("turn") or turned(*given, **size),
    )
    network, edge_index = small(GCN), edges()
    x = laid_out(features(), "csr")
    with torch.inference_mode():  # as validation before training does
        network.eval()(x, edge_index)
    network.train()
    for _ in range(3):
        trained(network, x, edge_index)
    assert calls == ["norm", "turn"]
    edge_index[0, 0] += 1 - 2 * (edge_index[0, 0] > 0)
    network(x, edge_index)
    assert calls == ["norm", "turn", "norm"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_made_in_inference_mode_is_understood(kind: type[GraphNetwork]) -> None:
    network, x, edge_index = small(kind).eval(), features(), edges()
    expected = network(x, edge_index)
    with torch.inference_mode():
        moved = x.clone(), edge_index.clone()
        for layout in ("dense", "csr", "coo"):
            logits = network(laid_out(moved[0], layout), moved[1])
            torch.testing.assert_close(logits, expected.detach(), atol=1e-5, rtol=1e-4)
        moved[1][:, 80:] = 0
        changed = network(*moved)
    torch.testing.assert_close(changed, network(x, moved[1].clone()).detach())


@pytest.mark.parametrize("kind", [GAT, GIN, GraphSAGE])
def test_edge_weights_are_refused_where_there_is_no_place_for_them(
    kind: type[GraphNetwork],
) -> None:
    with pytest.raises(ValueError, match="takes no edge_weight") as raised:
        small(kind)(features(), edges(), torch.ones(160))
    assert str(raised.value).startswith(f"{kind.__name__} takes no edge_weight: ")
    assert "\n" not in str(raised.value)


def test_features_that_want_a_gradient_must_be_dense() -> None:
    x = laid_out(features(), "csr").requires_grad_()
    with pytest.raises(ValueError, match=r"^Sparse features get no gradient; give them as a dense"):
        small(GCN)(x, edges())


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_are_pruned_and_attention_vectors_are_not(kind: type[GraphNetwork]) -> None:
    network = small(kind, hidden=8)
    chosen = prunable(network)
    assert set(chosen) == {n for n, p in network.named_parameters() if p.dim() == 2}
    assert not any(isinstance(layer, nn.Linear) for layer in network.modules())  # the trap
    mask = prune(network, 0.5)
    mask.apply_(network)
    assert mask.total == sum(p.numel() for p in chosen.values())
    assert sum(int(p.count_nonzero()) for p in chosen.values()) == mask.kept


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_layer_is_the_one_that_gives_the_classes(kind: type[GraphNetwork]) -> None:
    network = small(kind, layers=3)
    chosen = prunable(network)
    names = output_weights(network, chosen)
    stated = kind.output_layer if isinstance(kind.output_layer, tuple) else (kind.output_layer,)
    assert names == [f"{layer}.weight" for layer in stated]
    rates = layer_rates(network, chosen, {"output": 0.5})
    assert names == [name for name, rate in rates.items() if rate == 0.5]
    # all matrices that give the classes; the first linear layer of a GIN's last step is hidden
    assert names == [name for name, weight in chosen.items() if len(weight) == CLASSES]


@pytest.mark.parametrize("init", ["glorot_normal", "kaiming_normal", "orthogonal"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_drawn_by_name(kind: type[GraphNetwork], init: str) -> None:
    network = kind(inputs=600, init=init)
    for _ in range(2):
        for name, weight in prunable(network).items():
            outputs, inputs = weight.shape
            expected = {
                "glorot_normal": math.sqrt(2 / (inputs + outputs)),
                "kaiming_normal": math.sqrt(2 / inputs),
                "orthogonal": 1 / math.sqrt(max(inputs, outputs)),
            }[init]
            error = 6 / math.sqrt(2 * weight.numel())
            assert abs(float(weight.detach().std()) / expected - 1) < error, name
        for name, vector in network.named_parameters():
            assert "bias" not in name or not vector.any(), name
            assert "att" not in name or vector.abs().max() > 0.1, name
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(math.nan)
        network.reset_parameters()


@pytest.mark.parametrize("kind", KINDS)
def test_redrawing_by_default_is_as_pyg_draws(kind: type[GraphNetwork]) -> None:
    network, plain = kind(inputs=FEATURES, outputs=CLASSES), Plain(kind)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(math.nan)
    network.reset_parameters()
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        if theirs.numel() > 100:
            torch.testing.assert_close(ours.std(), theirs.std(), atol=0, rtol=0.5)
            torch.testing.assert_close(ours.abs().max(), theirs.abs().max(), atol=0, rtol=0.2)
        assert bool(ours.any()) == bool(theirs.any()), name


def test_the_output_heads_of_gat_are_averaged() -> None:
    network, x, edge_index = small(GAT, output_heads=5).eval(), features(), edges()
    seen: list[Tensor] = []
    network.output.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    logits = network(x, edge_index)
    plain = pyg.GATConv(64, CLASSES, heads=5, concat=False)
    plain.load_state_dict(network.output.state_dict())
    assert logits.shape == (NODES, CLASSES)
    torch.testing.assert_close(logits, plain(seen[0], edge_index))


def test_attention_of_gat_is_dropped_in_training() -> None:
    network, x, edge_index = small(GAT, dropout=0.0, attention_dropout=0.5), features(), edges()
    assert not torch.equal(network(x, edge_index), network(x, edge_index))
    for layer in (*network.hidden, network.output):
        assert layer.dropout == 0.5


@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("kind", KINDS)
def test_double_precision_is_kept(kind: type[GraphNetwork], layout: str) -> None:
    network, x, edge_index = small(kind, **QUIET[kind]).double(), features().double(), edges()
    plain = Plain(kind).double()
    plain.load_state_dict(network.state_dict())
    ours, gradients = trained(network, laid_out(x, layout), edge_index)
    theirs, expected = trained(plain, x, edge_index)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(gradients, expected, atol=1e-12, rtol=1e-8)


@pytest.mark.parametrize("bias", [False, True])
def test_a_single_layer_takes_sparse_features_too(bias: bool) -> None:
    from ltpl.models.graph_layers import FeatureLinear

    layer = FeatureLinear.of(pyg.Linear(FEATURES, 4, bias=bias))
    x = features()
    torch.testing.assert_close(layer(laid_out(x, "csr")), layer(x))


@pytest.mark.parametrize("train_eps", [False, True])
@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_gin_may_learn_the_weight_of_the_node_itself(train_eps: bool, layout: str) -> None:
    network = small(GIN, train_eps=train_eps, dropout=0.0)
    x, edge_index = features(), edges()
    _, gradients = trained(network, laid_out(x, layout), edge_index)
    assert ("hidden.0.eps" in gradients) == train_eps
    if train_eps:
        expected = trained(copy.deepcopy(network), x, edge_index)[1]
        torch.testing.assert_close(gradients, expected, atol=2e-5, rtol=1e-3)
        assert gradients["hidden.0.eps"].abs() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles_work_after_training(kind: type[GraphNetwork]) -> None:
    network, x, edge_index = small(kind, layers=3), laid_out(features(), "csr"), edges()
    trained(network, x, edge_index)
    network.eval()
    for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(again(x, edge_index), network(x, edge_index))
    if kind is GCN:
        assert again.hidden[0]._adjacency is again.output._adjacency


def test_it_trains_under_autocast() -> None:
    network, plain = small(GCN, dropout=0.0), Plain(GCN)
    plain.load_state_dict(network.state_dict())
    x, edge_index = features(), edges()
    expected, _ = trained(plain, x, edge_index)
    for layout in ("dense", "csr"):
        with torch.autocast("cpu", torch.bfloat16):
            logits, gradients = trained(network, laid_out(x, layout), edge_index)
        torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0.05)
        assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile looks at it
@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_it_can_be_compiled(layout: str) -> None:
    network, x, edge_index = small(GCN, dropout=0.0), features(), edges()
    expected, gradients = trained(network, x, edge_index)
    compiled = torch.compile(network, backend="eager")
    logits, ours = trained(compiled, laid_out(x, layout), edge_index)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(list(ours.values()), list(gradients.values()), atol=1e-6, rtol=1e-4)


def test_pyg_can_explain_it() -> None:
    explain = pytest.importorskip("torch_geometric.explain")
    pyg.GCNConv(2, 2)  # PyG then replaces a method of its class
    network, x, edge_index = small(GCN).eval(), features(), edges()
    network(x, edge_index)
    explainer = explain.Explainer(
        network,
        explain.GNNExplainer(epochs=3),
        explanation_type="model",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification",
            "task_level": "node",
            "return_type": "raw",
        },
    )
    assert explainer(x, edge_index, index=0).edge_mask.count_nonzero() > 0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (GCN, {"hidden": 0}, "hidden=0: a whole number is wanted, at least 1."),
        (GIN, {"layers": 2.0}, "layers=2.0: a whole number is wanted, at least 1."),
        (GAT, {"heads": True}, "heads=True: a whole number is wanted, at least 1."),
        (GAT, {"output_heads": 0}, "output_heads=0: a whole number is wanted, at least 1."),
        (GraphSAGE, {"dropout": 1}, "dropout=1: a number is wanted, 0 <= dropout < 1."),
        (
            GAT,
            {"attention_dropout": -0.1},
            "attention_dropout=-0.1: a number is wanted, 0 <= attention_dropout < 1.",
        ),
        (
            GCN,
            {"init": "glorot"},
            "init='glorot': default, glorot_normal, kaiming_normal, orthogonal are known. Did you "
            "mean 'glorot_normal'?",
        ),
    ],
)
def test_wrong_options_are_named_in_one_line(
    kind: type[GraphNetwork], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="=") as raised:
        kind(**options)
    assert str(raised.value) == message


def test_a_missing_pyg_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric.nn", None)
    monkeypatch.delitem(sys.modules, "ltpl.models.graph_layers", raising=False)
    with pytest.raises(ValueError, match="pip install torch-geometric") as raised:
        GCN()
    assert "\n" not in str(raised.value)


def test_pyg_is_imported_only_when_a_network_is_built() -> None:
    code = "import sys, ltpl.models.graph; print('torch_geometric' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
