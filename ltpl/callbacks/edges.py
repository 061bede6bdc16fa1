"""`EdgePruning`: take edges out of the graph that any LightningModule is trained on."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from ltpl.callbacks.edge_ranks import keep_alike, of_first_edges, write
from ltpl.callbacks.edge_rounds import CONTROL, edges_before, edges_of
from ltpl.callbacks.edge_weights import LearnedEdges, WeighedLayers, must_not_cache
from ltpl.callbacks.graph_steps import GraphSteps, OneGraph, must_be_one_batch
from ltpl.callbacks.namespace import Callback
from ltpl.callbacks.scoring import training_batches
from ltpl.masks.edges import by_chance, by_degree, by_features, strongest
from ltpl.masks.errors import LARGEST_FACTOR, check_seed, unknown
from ltpl.masks.schedule import AtEpochs, Cubic, PerRound, Schedule, as_schedule
from ltpl.tickets.edges import EdgeTicket
from ltpl.tickets.lineage import Lineage

CRITERIA = ("learned", "random", "jaccard", "degree")


class EdgePruning(Callback):
    """Prune edges of the graph, after unified graph sparsification (experimental).

    A batch is one whole `torch_geometric` graph, the only one of an epoch, which is not altered:
    the steps of the module get a copy with fewer edges, when they validate and test too. Both
    directions of an edge live and die together; self-loops always stay. Alone in a fit, or in
    rounds, where each round goes on with the edges that the round before has kept and writes
    `edges.safetensors` for the next (`ltpl.tickets.EdgeTicket`); `prune.amount=0` leaves weights.

    Edges are not free. On Cora accuracy falls from the first per cent of the edges, and learned
    masks were no better than random ones until about 70 % were removed, where accuracy is lost
    already (`experiments/edges`): run the control.

    Args:
        amount: Share of the remaining edges to prune each time.
        criterion: Which go first. `learned`: those of the smallest weight, where each edge has one
            that is trained along (Chen et al., 2021) and starts from one, also after a pruning;
            `random`; `jaccard`: between nodes that share few features; `degree`: between hubs,
            where the product of the degrees of both ends is largest. Of equal edges, chance
            decides.
        epoch: When: an epoch, a list of epochs, or `Every`; when training ends if not given.
        lr: Learning rate of the weights of `learned`, which Adam trains without weight decay. Those
            that only the penalty moves lose `lr` a step, however small `l1` is, down to zero: with
            1 / `lr` steps or more, nearly all end there, and chance decides.
        l1: Strength of their L1 penalty, as subgradient.
        seed: Seed of all that chance decides.
        control: Whether rounds also train the branch `random_edges`: the same tickets, and as many
            edges, chosen at random.

    Raises:
        ValueError: If an option is out of range or a name is unknown.

    Example:
        >>> from ltpl.callbacks import EdgePruning
        >>> EdgePruning(amount=0.05, criterion="degree", epoch=[50, 100]).schedule.epochs
        [50, 100]
    """

    prunes_in_rounds = True  # so that the weights need not be

    def __init__(
        self,
        amount: float = 0.05,
        criterion: str = "learned",
        epoch: int | list[int] | Schedule | None = None,
        lr: float = 0.002,
        l1: float = 0.01,
        seed: int = 0,
        control: bool = True,
    ):
        if criterion not in CRITERIA:
            raise unknown("criterion", criterion, CRITERIA)
        if not 0 < amount < 1:
            raise ValueError(f"amount={amount}: a share of the remaining edges, 0 < amount < 1.")
        for name, given in (("lr", lr), ("l1", l1)):
            if not 0 <= given <= LARGEST_FACTOR:
                raise ValueError(f"{name}={given}: 0 <= {name} <= {LARGEST_FACTOR:g}.")
        self.schedule = PerRound() if epoch is None else as_schedule(epoch)
        if isinstance(self.schedule, Cubic):
            raise ValueError("epoch=Cubic(...): give an epoch, a list of epochs, or Every(...).")
        self.amount = amount
        self.criterion = criterion
        self.lr = lr
        self.l1 = l1
        self.seed = check_seed("seed", seed)
        self.control_branch = CONTROL if control and criterion != "random" else None
        self.pruned_at: list[int] = []
        self._forget()
        self._lineage: Lineage | None = None
        self._came_with: EdgeTicket | None = None
        self._written = False
        self._module: weakref.ref[Any] | None = None
        self._steps = GraphSteps(self._look)

    def _forget(self) -> None:
        """Start over, as for another module."""
        self._graph = OneGraph()
        self._keep: Tensor | None = None
        self._learned: LearnedEdges | None = None
        self._learned_until_now: dict[str, Any] | None = None
        self._layers: WeighedLayers | None = None

    @property
    def ticket(self) -> EdgeTicket:
        """The graph, and which of its edges are kept now.

        Raises:
            ValueError: If no graph has been seen yet.
        """
        if self._graph.edges is None or self._keep is None:
            raise ValueError("EdgePruning has not seen a graph yet: fit, validate or test first.")
        made_by = {"criterion": self.criterion, "amount": self.amount}
        return EdgeTicket(self._graph.edges, self._keep, made_by)

    def on_round(self, trainer: Any, pl_module: Any, lineage: Lineage) -> None:
        """Start a round from the edges that the round before has kept."""
        if not isinstance(self.schedule, PerRound):
            raise ValueError(
                f"EdgePruning.epoch={getattr(self.schedule, 'epochs', self.schedule)!r}: rounds "
                "prune when a round has ended. Leave epoch out; to prune inside one fit use "
                "`ltpl fit`."
            )
        self._forget()
        self._lineage, self._module = lineage, weakref.ref(pl_module)
        self._came_with = None if lineage.previous is None else edges_before(lineage.previous)
        self._written = False

    @property
    def _is_control(self) -> bool:
        return self._lineage is not None and self._lineage.branch == CONTROL

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._module is None or self._module() is not pl_module:
            self._forget()
        self._module = weakref.ref(pl_module)
        if stage == "fit" and trainer.current_epoch == 0:
            self.pruned_at, self._learned, self._learned_until_now = [], None, None
        self._steps.attach(pl_module)

    @override
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._steps.detach()
        self._graph.batch = None

    @override
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._steps.detach()

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        must_be_one_batch(trainer)
        keep_alike(trainer, lambda: self._meet(training_batches(trainer, 1)[0]))

    @contextmanager
    def _look(self, batch: Any) -> Iterator[Any]:
        """Give a graph with the edges that are kept, each with its weight."""
        with torch.inference_mode(False):  # validation comes first, and training uses what it made
            keep = self._meet(batch)
            seen, place = self._graph.only(batch, keep)
        if self._learned is None:
            yield seen
            return
        assert self._layers is not None
        with self._layers.weighed(seen, self._learned.of(place)):
            yield seen

    def _meet(self, batch: Any) -> Tensor:
        """Return which edges of a graph are kept; the first time, begin with it."""
        edges = self._graph.meet(batch)
        if self._keep is None:
            self._keep = edges.all()
            if self._came_with is not None and self._lineage is not None:
                self._keep = edges_of(self._lineage, self._came_with, edges, self.seed)
        if len(self._keep) != edges.total:
            raise ValueError(
                f"EdgePruning: the checkpoint is of a graph of {len(self._keep):,} undirected "
                f"edges, but this one has {edges.total:,}."
            )
        self._keep = self._keep.to(edges.ends.device)
        pl_module = self._module() if self._module is not None else None
        assert pl_module is not None
        if self._layers is None:
            must_not_cache(pl_module)
            self._layers = WeighedLayers(pl_module)
        if self.criterion == "learned" and not self._is_control and self._learned is None:
            self._layers.must_weigh()
            self._learned = LearnedEdges(self._keep, self.lr, self.l1, self._learned_until_now)
        return self._keep

    @override
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0 and self._is_due(trainer, ended=False):
            self._meet(batch)
            self._prune(trainer)

    @override
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        if self._learned is not None:
            self._learned.step(trainer)

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        values = self._graph.measured
        several = trainer.world_size > 1  # the same on every rank
        pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=1, sync_dist=several)

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._end(trainer)
        epochs = self.schedule.epochs if isinstance(self.schedule, AtEpochs) else []
        missed = [epoch for epoch in epochs if epoch not in self.pruned_at]
        if missed and not trainer.fast_dev_run:
            rank_zero_warn(
                f"EdgePruning: training ended after {trainer.current_epoch} epochs, so it never "
                f"pruned at {missed}."
            )

    @override
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._end(trainer)  # resumed from a checkpoint of the last epoch, nothing else is called

    def _end(self, trainer: Any) -> None:
        """Prune as training ends, or in rounds write what the next one trains on."""
        if self._lineage is None:
            if self._is_due(trainer, ended=True):
                self._meet_again(trainer)
                self._prune(trainer)
        elif self._lineage.branch is None and not self._written:
            self._meet_again(trainer)
            self._written = True
            write(trainer, self._lineage, replace(self.ticket, keep=self._next(trainer)))

    def _meet_again(self, trainer: Any) -> None:
        if self._graph.batch is None:
            self._meet(training_batches(trainer, 1)[0])

    def _is_due(self, trainer: Any, ended: bool) -> bool:
        epoch = trainer.current_epoch
        return epoch not in self.pruned_at and self.schedule.due(epoch, ended)

    def _prune(self, trainer: Any) -> None:
        self._keep, self._learned, self._learned_until_now = self._next(trainer), None, None
        self.pruned_at.append(trainer.current_epoch)
        self._meet(self._graph.batch)

    def _next(self, trainer: Any) -> Tensor:
        """Return what is kept when the share of this pruning has gone."""
        edges, keep = self._graph.edges, self._keep
        assert edges is not None
        assert keep is not None
        replicate = 0 if self._lineage is None else self._lineage.seed
        chance = by_chance(edges.total, "random", self.seed, replicate).to(keep.device)
        if self._learned is not None:
            scores = self._learned.values.detach()
        elif self.criterion == "random":
            scores = -chance
        elif self.criterion == "degree":
            scores = by_degree(edges.ends, keep)
        else:
            scores = by_features(getattr(self._graph.batch, "x", None), edges.ends)
        kept = int(keep.sum())
        number = kept - round(self.amount * kept)
        after = of_first_edges(trainer, strongest(scores, keep, number, chance))
        self._graph.tell(trainer.current_epoch, keep, after)
        return after

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._keep is None:
            return {}
        learned = self._learned_until_now if self._learned is None else self._learned.state_dict()
        return {"keep": self._keep, "pruned_at": self.pruned_at, "learned": learned}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "keep" in state_dict:
            self._keep, self.pruned_at = state_dict["keep"], list(state_dict["pruned_at"])
            self._learned, self._learned_until_now = None, state_dict["learned"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_module": None, "_steps": None, "_layers": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._steps = GraphSteps(self._look)
