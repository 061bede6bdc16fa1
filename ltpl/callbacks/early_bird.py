"""`EarlyBird`: find the epoch from which on the ticket no longer changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from ltpl.callbacks.board import write
from ltpl.callbacks.distances import Record
from ltpl.callbacks.folder import callback_folder
from ltpl.callbacks.found import keep_ticket, must_watch_alike, speak_of_factors
from ltpl.callbacks.position import position
from ltpl.callbacks.pruning import PruneAtEpoch
from ltpl.callbacks.scoring import training_batches
from ltpl.callbacks.trunk import coupled
from ltpl.masks.candidate import Candidate
from ltpl.masks.errors import unknown
from ltpl.masks.mask import Mask
from ltpl.masks.norms import scale_names
from ltpl.masks.select import named_parameters
from ltpl.masks.units import TRUNKS, units_of
from ltpl.masks.watch import Watch, WhenFound, watched

ACTIONS = ("stop", "prune", "save")


class EarlyBird(PruneAtEpoch):
    """Find early-bird tickets: look after each epoch whether the mask still changes.

    After each trained epoch the mask that `amount` would prune now is drawn and compared with
    those before it (You et al., 2020, section 3.2); the mask of initialisation is never part of
    the window. A ticket that is found is saved in a folder beside the logs, `NAME_AMOUNT`: mask,
    weights, optimisers, how it was found. Distances go to every logger; all pairs of them to
    `NAME.json` beside the logs, and as a picture to TensorBoard.

    Args:
        amount: Share to prune, or several that are watched at once: 0.3, 0.5, 0.7 in the paper.
        eps: The share of bits that may differ between masks that count as equal.
        window: How long the mask has to stand still, see `rule`.
        rule: `paper`: the last `window` distances from one epoch to the next are all below `eps`.
            `window`, as in the published code: the newest mask is at most `eps` from each of the
            `window` - 1 before it.
        action: What follows: `stop` training at the end of that epoch; `prune` at the start of the
            next one and train on, masked; `save` the ticket and go on.
        relative: Whether `eps` is a share of the distance of random masks, 2p(1-p), which makes it
            comparable across amounts.
        channels: What is masked: channels by scaling factor, `gamma`, or single weights by
            `magnitude`.
        act_on: The amount whose ticket stops or prunes; the first if not given.
        include: Globs or exact paths of normalisation layers, or of parameters with `magnitude`.
        exclude: What is left out.
        kinds: Kinds of normalisation layers: `batch`, `instance`, `group`, `layer`.
        trunk: Channels that a residual network adds together: `all` layers channel by channel, as
            published; `inner` keeps the trunk; `group` lets added channels live and die together.
        reduction: What such a group is worth: the `max` or `mean` of its channels, or `union`.
        min_keep: At least so many channels of each layer stay, or weights of each parameter.
        name: Of what is logged and written; two in one Trainer need two names.

    Raises:
        ValueError: If an option is out of range or unknown, or every mask would do with `eps`.

    Example:
        >>> from ltpl.callbacks import EarlyBird
        >>> EarlyBird(amount=[0.3, 0.5, 0.7], action="prune", act_on=0.5).found
        {0.3: None, 0.5: None, 0.7: None}
    """

    schedule: WhenFound

    def __init__(
        self,
        amount: float | list[float] = 0.5,
        eps: float = 0.1,
        window: int = 5,
        rule: str = "paper",
        action: str = "stop",
        relative: bool = False,
        channels: str = "gamma",
        act_on: float | None = None,
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        kinds: str | list[str] = "batch",
        trunk: str = "all",
        reduction: str = "max",
        min_keep: int = 1,
        name: str = "early_bird",
    ):
        self.watched = watched(amount)
        self.act_on = self.watched[0] if act_on is None else act_on
        if self.act_on not in self.watched:
            raise ValueError(f"act_on={act_on}: one of the amounts watched, {self.watched}.")
        for option, given, allowed in (("action", action, ACTIONS), ("trunk", trunk, TRUNKS)):
            if given not in allowed:
                raise unknown(option, given, allowed)
        super().__init__(
            WhenFound(), self.act_on, "all", include=include, exclude=exclude, min_keep=min_keep
        )
        drawn = Candidate(channels, include, exclude, min_keep, kinds, reduction=reduction)
        self.watch = Watch(self.watched, drawn, rule, window, eps, relative)
        self.action, self.prunes = action, action == "prune"
        self.trunk = trunk
        self.name = name
        self._fresh = self.watch.state()
        self._forget()

    def _forget(self) -> None:
        self.watch.restore(self._fresh)
        self.schedule.found = None
        self.tickets: dict[float, str] = {}
        self._seen = -1  # the last epoch that was looked at
        self._record = Record(self.name)
        self._said = False

    @property
    @override
    def state_key(self) -> str:
        """What is watched; another `eps`, `rule` or `action` goes on from the same masks."""
        drawn = {**vars(self.watch.candidate), "units": self.trunk}
        return self._generate_state_key(name=self.name, amounts=self.watched, **drawn)

    @property
    def found(self) -> dict[float, int | None]:
        """After how many epochs the ticket of each amount was found; None if it was not."""
        return {amount: self.watch[amount].found for amount in self.watched}

    @property
    def masks(self) -> dict[float, Mask]:
        """The masks that were found, by amount."""
        return dict(self.watch.masks)

    def distances(self, amount: float | None = None) -> Tensor:
        """Return the distances of the masks of all epochs to each other.

        Args:
            amount: Which of the amounts; the one that acts if not given.
        """
        return self.watch[self.act_on if amount is None else amount].history.distances.clone()

    def epochs(self, amount: float | None = None) -> list[int]:
        """Return after how many epochs each of these masks was drawn; 0 is initialisation."""
        return list(self.watch[self.act_on if amount is None else amount].history.epochs)

    @override
    def prunable(self, pl_module: nn.Module) -> dict[str, nn.Parameter]:
        """Return what may be masked: nothing, unless the action is to prune."""
        if self.action != "prune":
            return {}
        if self.watch.candidate.channels == "magnitude":
            return super().prunable(pl_module)
        names = scale_names(self.watch.candidate.norms(pl_module)).values()
        parameters = named_parameters(pl_module)
        return {name: parameters[name] for pair in names for name in pair}

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        names = [bird.name for bird in trainer.callbacks if isinstance(bird, EarlyBird)]
        if names.count(self.name) > 1:
            raise ValueError(f"name={self.name!r}: each EarlyBird of a Trainer needs its own.")
        if stage == "fit" and trainer.current_epoch == 0:
            self._forget()

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.action == "prune":
            super().on_train_start(trainer, pl_module)
        must_watch_alike(trainer, self.name, self.watch)
        self._record.folder = callback_folder(trainer)
        self._follow_trunk(trainer, pl_module)
        where = position(trainer)
        if self._seen < 0 and (where["epoch"] or where["batches"]):
            rank_zero_info(f"{self.name} watches from now on; there are no earlier masks.")
        else:
            # initialisation; or resumed from a checkpoint of an epoch's last batch, after which
            # Lightning does not call `on_train_epoch_end`
            write(trainer, self._look(trainer, pl_module))
        self._stop_if_found(trainer)

    def _follow_trunk(self, trainer: Any, pl_module: Any) -> None:
        if self.trunk == "all" or self.watch.candidate.channels == "magnitude":
            return
        norms = self.watch.candidate.norms(pl_module)
        graph = coupled(pl_module, norms, training_batches(trainer, 1)[0])
        units = units_of(self.trunk, graph.units, graph.trunk)
        self.watch.candidate = replace(self.watch.candidate, units=units)

    @override
    def on_compact(self, trainer: Any, pl_module: Any, found: Any, place: Any) -> None:
        """Follow the smaller network."""
        super().on_compact(trainer, pl_module, found, place)
        self._follow_trunk(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_last_batch:  # max_steps may end an epoch before
            values = self._look(trainer, pl_module)
            several = trainer.world_size > 1  # the same on every rank
            pl_module.log_dict(values, on_step=False, on_epoch=True, sync_dist=several)
        self._stop_if_found(trainer)

    def _look(self, trainer: Any, pl_module: Any) -> dict[str, float]:
        """Draw the masks of now, once an epoch; return what there is to log."""
        epoch = position(trainer)["epoch"]
        if epoch <= self._seen:
            return {}
        self._seen = epoch
        drawn = trainer.strategy.broadcast(self.watch.draw(pl_module))
        if self.watch.candidate.channels == "gamma":
            self._said = speak_of_factors(self.name, epoch, drawn is None, self._said)
        if drawn is None:
            return {}
        for amount in self.watch.add(epoch, drawn, pl_module):
            self._keep(trainer, pl_module, amount)
        self._record.write(trainer, self.watch)
        measured = self.watch.measured(epoch) if epoch else {}
        return {f"{self.name}/{what}": value for what, value in measured.items()}

    def _keep(self, trainer: Any, pl_module: Any, amount: float) -> None:
        """Save a ticket that was found just now, and arrange for what follows."""
        found = {
            "by": type(self).__name__,
            "amount": amount,
            **self.watch.described(amount),
            "channels": self.watch.candidate.channels,
            "trunk": self.trunk,
        }
        mask, name = self.watch.masks[amount], f"{self.name}_{amount}"
        ticket = keep_ticket(trainer, pl_module, mask, found, self._record.folder, name)
        self.tickets[amount] = ticket
        self._arrange()
        self._record.show(trainer, self.watch, amount)

    def _arrange(self) -> None:
        self.schedule.found = self.found[self.act_on] if self.action == "prune" else None

    def _stop_if_found(self, trainer: Any) -> None:
        # Lightning forgets it when it resumes, and puts it off until min_epochs
        if self.action == "stop" and self.found[self.act_on] is not None:
            trainer.should_stop = True

    @override
    def _evidence(self, trainer: Any) -> dict[str, Any]:
        return {"found": self.watch.masks[self.act_on]}

    @override
    def draw(
        self,
        pl_module: nn.Module,
        amount: float | None,
        of: str,
        mask: Mask | None,
        seed: int,
        found: Mask | None = None,
        **evidence: Any,
    ) -> Mask:
        """Return the mask that was found, under what was kept until now."""
        if found is None:
            raise ValueError(
                "EarlyBird prunes only what it has found. Rounds prune by another callback: "
                "PruneAtEpoch, or NetworkSlimming."
            )
        return Mask({n: k & mask[n] if mask and n in mask else k for n, k in found.items()})

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)
        missing = [amount for amount, epoch in self.found.items() if epoch is None]
        if missing and not trainer.fast_dev_run:
            promised = self.action == "prune" and self.act_on in missing
            (rank_zero_warn if promised else rank_zero_info)(
                f"{self.name}: training ended after {trainer.current_epoch} epochs, and no ticket "
                f"was found for {', '.join(map(str, missing))}: train longer, or raise eps."
            )

    @override
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._record.show(trainer, self.watch, *self.watched)

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "watch": self.watch.state(),
            "tickets": {str(amount): folder for amount, folder in self.tickets.items()},
            "seen": self._seen,
            "numbers": self._record.file,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.watch.restore(state_dict["watch"])
        self.tickets = {float(amount): f for amount, f in state_dict["tickets"].items()}
        self._seen = state_dict["seen"]
        self._record.file = state_dict["numbers"]
        self._arrange()
