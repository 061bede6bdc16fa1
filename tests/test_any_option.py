"""Whatever an option is given in Python, the answer is success or one line that names it."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from odd_values import VALUES, examples
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import ltpl
import ltpl.callbacks
import ltpl.data
import ltpl.masks
import ltpl.models
import ltpl.modules
import ltpl.rounds.find
import ltpl.tickets
from ltpl.masks import Mask, Schedule, prune
from ltpl.masks.edges import Edges
from ltpl.masks.threshold import Scores
from ltpl.report import Expectation
from ltpl.rounds.branch import Branch
from ltpl.rounds.plan import Plan, numbers
from ltpl.tickets.ticket import Ticket

Chosen = dict[str, Any]
Made = Callable[..., Any]

SAID = {  # what a message may name instead of an option
    "path": ("at ", "file", "nowhere", "Errno"),
    "folder": ("at ",),
    "dirpath": ("Errno",),
    "run": ("Errno",),
    "model": ("Mask", "Linear", "nowhere"),
    "parameters": ("Mask",),
    "keep": ("masks are torch.bool",),
    "kinds": ("of kind",),
    "tolerance": ("is allowed",),
    "teacher": ("No trained weights at", "finished round", "Errno"),
}
FED = {"batch", "batches", "example_input"}  # what goes into somebody's network is their affair
RESULTS = {"LayerDensity", "Schedule", "Network"}  # nobody makes them


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.uniform_(net[1].weight)
    return net


class Tiny(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.rand(8, 3), torch.arange(8) % 2), batch_size=4)


NET = network()
MASK = prune(NET, 0.5)
SCORES = {n: Scores(n, (p.detach().flatten(),), torch.abs) for n, p in NET.named_parameters()}
EDGES = Edges.of(torch.tensor([[0, 1], [1, 0]]))
NEEDED: dict[str, Chosen] = {  # what has no default
    "AtEpochs": {"epochs": [1]},
    "Every": {"n": 1},
    "Cubic": {"first": 0, "last": 2},
    "Plan": {"run": "run"},
    "Branch": {"name": "reinit"},
    "Expectation": {"claim": "It learns.", "of": "dense", "value": 1, "tolerance": 1},
    "Distillation": {"teacher": "ema"},
    "numbers": {"text": "0-4", "option": "text"},
    "prune": {"model": NET, "amount": 0.5},
    "channel_mask": {"model": NET, "amount": 0.5},
    "prunable": {"model": NET},
    "live": {"model": NET, "mask": MASK},
    "live_path": {"model": NET, "mask": MASK, "batch": torch.rand(2, 3)},
    "allocate": {
        "scores": SCORES,
        "shapes": {n: p.shape for n, p in NET.named_parameters()},
        "amount": 0.5,
    },
    "Criterion": {"name": "mine", "score": torch.abs},
    "Enforcement": {"parameters": dict(NET.named_parameters()), "mask": MASK},
    "Mask": {"keep": {"w": torch.tensor([True])}},
    "Mask.load": {"path": "nowhere"},
    "Snapshot.load": {"path": "nowhere"},
    "Ticket.load": {"folder": "nowhere"},
    "EdgeTicket.load": {"path": "nowhere"},
    "EdgeTicket": {"edges": EDGES, "keep": torch.tensor([True])},
    "Snapshot": {"step": "0ep", "weights": {}, "buffers": {}},
    "Step.parse": {"text": "2ep"},
    "compact": {"model": NET, "mask": MASK, "example_input": torch.rand(2, 3)},
    "load": {"path": "nowhere"},
    "save": {"model": NET, "path": "small.safetensors"},
    "find_tickets": {"make_model": Tiny, "run": "run"},
    "ImageClassifier": {"network": NET},
    "NodeClassifier": {"network": NET},
    "WarmupDrops": {"optimizer": torch.optim.SGD(NET.parameters(), lr=0.1)},
}


def public() -> dict[str, Made]:
    """Return everything public that takes options, by name."""
    rooms = (ltpl.callbacks, ltpl.masks, ltpl.tickets, ltpl.models, ltpl.modules, ltpl.data)
    found = {name: getattr(room, name) for room in rooms for name in room.__all__}
    found |= {name: getattr(ltpl, name) for name in ltpl.__all__}
    found |= {
        "Plan": Plan,
        "Branch": Branch,
        "Expectation": Expectation,
        "numbers": numbers,
        "Step.parse": ltpl.tickets.Step.parse,
    }
    for kind in (Mask, ltpl.tickets.Snapshot, Ticket, ltpl.tickets.EdgeTicket):
        found[f"{kind.__name__}.load"] = kind.load
    return {name: made for name, made in found.items() if callable(made) and name not in RESULTS}


def options(name: str) -> list[str]:
    """Return the names of what it takes, and of what it hands on."""
    made = public()[name]
    found: dict[str, None] = {}
    handed_on = [made, Plan] if made is ltpl.find_tickets else [made]
    for kind in made.__mro__ if isinstance(made, type) else handed_on:
        taken = inspect.signature(kind).parameters.values()
        found |= {p.name: None for p in taken if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not any(p.kind is p.VAR_KEYWORD for p in taken):
            break
    return [option for option in found if option not in FED]


def use(made: Any) -> None:
    """Do with it what it was made for."""
    if isinstance(made, pl.Callback):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(fast_dev_run=True, accelerator="cpu", callbacks=[made], **quiet)
        if isinstance(made, ltpl.callbacks.EdgePruning):
            network = ltpl.models.GCN(inputs=34, hidden=2, outputs=4)
            trainer.fit(ltpl.modules.NodeClassifier(network), ltpl.data.KarateClub())
        else:
            trainer.fit(Tiny())
    elif isinstance(made, Schedule):
        made.due(1), made.progress(1)


def attempt(name: str, option: str, value: Any) -> None:
    """Make it with one odd value; if that is refused, by one line that names the option."""
    told, expected = "", (option, *SAID.get(option, ()))
    chosen = {**NEEDED.get(name, {}), **({option: value} if option else {})}
    try:
        sizes_only = "meta" if name in ltpl.models.__all__ else "cpu"
        with warnings.catch_warnings(), torch.random.fork_rng(), torch.device(sizes_only):
            warnings.simplefilter("ignore")
            use(public()[name](**chosen))
    except (ValueError, OSError) as error:
        told = str(error) or "nothing"
    except TypeError as error:
        if not re.search("unexpected keyword argument|multiple values for", str(error)):
            raise  # those are Python's own words for a name that nothing has
    assert "\n" not in told
    assert not told or any(name in told for name in expected), told


@pytest.fixture(scope="module", autouse=True)
def _somewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder to write to, and no training by `find_tickets`."""
    folder = tmp_path_factory.mktemp("any_option")
    (folder / "folder").mkdir()
    (folder / "file").write_text("x")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(ltpl.rounds.find, "run_rounds", lambda experiment, plan, seeds: None)
        yield


@pytest.mark.parametrize("name", sorted(public()))
@examples(30)
@given(drawn=st.data())
def test_a_wrong_value_is_refused_in_one_line(name: str, drawn: st.DataObject) -> None:
    taken = options(name)
    attempt(name, drawn.draw(st.sampled_from(taken)) if taken else "", drawn.draw(VALUES))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option"), [(n, o) for n in public() for o in options(n)])
@examples(300)
@given(value=VALUES)
def test_any_wrong_value_is_refused_in_one_line(name: str, option: str, value: Any) -> None:
    attempt(name, option, value)
