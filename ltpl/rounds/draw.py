"""The next ticket: what to keep of a trained network, and where that starts again."""

from __future__ import annotations

import copy
import functools
import itertools
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from ltpl.callbacks.policy import Policy
from ltpl.callbacks.pruning import PruneAtEpoch
from ltpl.callbacks.ranks import mean_over_ranks
from ltpl.callbacks.rewinding import RewindToEpoch
from ltpl.callbacks.scoring import training_loss
from ltpl.callbacks.sizing import first, lazy, size_, undisturbed
from ltpl.masks.criteria import find_criterion
from ltpl.masks.mask import Mask
from ltpl.masks.select import named_parameters
from ltpl.rounds.experiment import Parts, check_levels
from ltpl.rounds.plan import Plan
from ltpl.rounds.ranks import processes, rank
from ltpl.rounds.seeds import mixed, seed_all
from ltpl.tickets.snapshot import Snapshot
from ltpl.tickets.start import starting_weights
from ltpl.tickets.step import Step
from ltpl.tickets.ticket import Ticket


def check(parts: Parts, plan: Plan, depth: int) -> None:
    """Raise what would go wrong later, before anything is trained or written.

    Args:
        parts: A freshly built round.
        plan: Amounts and levels.
        depth: The last level.

    Raises:
        ValueError: If a level cannot be pruned, would prune nothing, a callback can work in no such
            level, or the rewinding point is beyond the end of training.
    """
    check_levels(parts.trainer.callbacks, depth)
    for option, step in [
        ("rewind", parts.rewinder.step),
        *(("snapshots", m) for m in plan.moments),
    ]:
        _must_end_later(parts, option, step)
    prepare(parts)
    by_size = copy.copy(parts.pruner)
    by_size.criterion = find_criterion("magnitude")  # counts do not depend on the criterion
    rehearsal = replace(parts, pruner=by_size)
    untrained = Snapshot.take("0ep", parts.module)
    mask = Mask.dense(by_size.prunable(parts.module))
    else_thinner = any(getattr(c, "prunes_in_rounds", False) for c in parts.trainer.callbacks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for level in range(1, depth + 1):
            before = mask if not plan.one_shot else Mask.dense(by_size.prunable(parts.module))
            after = next_mask(rehearsal, plan, level, untrained, before, seed=0)
            if after.kept == before.kept and not else_thinner:
                raise ValueError(
                    f"Level {level} would prune nothing: {before.kept:,} of {before.total:,} "
                    "weights are left. Ask for fewer levels or larger amounts."
                )
            mask = after


def _must_end_later(parts: Parts, option: str, step: Step) -> None:
    trainer = parts.trainer
    goes, limit, unit = step.epoch, trainer.max_epochs, "epochs"
    if step.epoch is None:
        goes, limit, unit = step.iteration, trainer.max_steps, "steps"
    if limit not in (None, -1) and not trainer.fast_dev_run and (goes or 0) >= limit:
        what = f"{option} goes back to" if option == "rewind" else f"{option} keeps"
        raise ValueError(
            f"{what} {step}, but training ends after {limit} {unit}: name an earlier moment or "
            "train longer."
        )


def prepare(parts: Parts) -> None:
    """Build what a module builds late, in `configure_model`, and give lazy layers their sizes.

    Lightning may call `configure_model` again; where that shards, it alone calls it.

    Raises:
        ValueError: If there are lazy layers, and the module optimises by itself, or no weights
            before there is a device mesh.
    """
    module, strategy = parts.module, type(parts.trainer.strategy)
    if not hasattr(strategy, "device_mesh"):
        module.configure_model()
    elif not list(module.parameters()):
        raise ValueError(
            f"{type(module).__name__} has no weights before configure_model: with "
            f"{strategy.__name__}, rounds need the network in __init__, and configure_model only "
            "to shard it."
        )
    else:  # validation, fit and test of a round call it, and nothing is sharded twice
        module.configure_model = functools.cache(module.configure_model)
    if lazy(module):
        if not module.automatic_optimization:
            raise ValueError(
                f"{type(module).__name__} has lazy layers and manual optimization: rounds cannot "
                "run its training step before there are optimisers. Give the layers their sizes."
            )
        with undisturbed():
            batch = first(training_data(parts))
            batch = module._apply_batch_transfer_handler(batch, device=module.device)
        module.trainer = parts.trainer
        size_(module, batch)


def next_mask(
    parts: Parts, plan: Plan, level: int, trained: Snapshot, before: Mask, seed: int
) -> Mask:
    """Return the mask of a level.

    Pruned at once, a level has just as many weights in each layer as pruned step by step: the
    steps are taken on the same trained weights.

    Args:
        parts: A freshly built round; its module is left with the trained weights.
        plan: Amounts and levels.
        level: Which level.
        trained: The network that is pruned.
        before: What was kept in it.
        seed: Seed of random criteria.
    """
    pruner, module = parts.pruner, parts.module
    evidence = _evidence(parts)
    trained.restore_weights_(module)
    if plan.densities:
        return pruner.draw(module, 1 - plan.densities[level - 1], "all", before, seed, **evidence)
    steps = [level]
    if plan.one_shot and pruner.of == "remaining":
        steps = list(range(1, level + 1))
    mask = before
    for step in steps:
        amount = amount_of(pruner, step)
        mask = pruner.draw(module, amount, pruner.of, mask, seed, **evidence)
    return mask


def amount_of(pruner: PruneAtEpoch, level: int) -> float | None:
    """Return what the pruner takes away at a level, counted from 1."""
    amounts = pruner.amounts
    return amounts[min(level, len(amounts)) - 1]


def _evidence(parts: Parts) -> dict[str, Any]:
    """Return what the criterion looks at besides trained weights; the module is still fresh."""
    needs = parts.pruner.criterion.needs
    evidence: dict[str, Any] = {}
    if "init" in needs:
        fresh = named_parameters(parts.module)
        evidence["init"] = {name: p.detach().clone() for name, p in fresh.items()}
    if "batches" in needs:
        evidence["batches"] = _batches(parts)
    if "reduce" in needs:
        evidence["reduce"] = mean_over_ranks()
    if "loss" in needs:
        parts.module.trainer = parts.trainer
        evidence["loss"] = training_loss
    return evidence


def _batches(parts: Parts) -> list[Any]:
    """Return batches of training data; several processes share them out."""
    seed_all(mixed("batches", parts.pruner.seed))
    loader = training_data(parts)
    samplers = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]
    shared = any(isinstance(sampler, DistributedSampler) for sampler in samplers)
    skip, step = (0, 1) if shared else (rank(), processes())
    return list(itertools.islice(loader, skip, step * parts.pruner.batches, step))


def training_data(parts: Parts) -> Any:
    """Return the training data of a round that has not trained yet, set up for it."""
    source = parts.data if parts.data is not None else parts.module
    source.prepare_data()
    source.setup("fit")
    return source.train_dataloader()


def next_start(
    rewinder: RewindToEpoch,
    mask: Mask,
    dense: Snapshot,
    trained: Snapshot,
    drawn_anew: Callable[[], Snapshot],
    seed: int,
) -> Ticket:
    """Return the ticket of a mask: what its kept weights, optimiser and schedule start from.

    Args:
        rewinder: The policy.
        mask: What is kept.
        dense: The rewinding point of the dense network.
        trained: The network that was pruned.
        drawn_anew: Gives a network with new initial weights.
        seed: Seed of reshuffling.
    """
    policy = rewinder.policy
    if policy is Policy.reinit:
        start = drawn_anew()
    elif policy is Policy.rewind:
        start = _restart(dense, rewinder, dense.weights, dense.buffers)
        if rewinder.mask_1 == "reinit":
            start.weights.update(drawn_anew().weights)
        else:
            start.weights.update(starting_weights(dense.weights, mask, rewinder.mask_1, seed))
    elif policy is Policy.lr_rewind:
        start = _restart(dense, rewinder, trained.weights, trained.buffers)
    elif policy is Policy.finetune:
        start = Snapshot(
            "end", dict(trained.weights), trained.buffers, trained.optimizers, [], dense.position
        )
    else:
        start = Snapshot("end", dict(trained.weights), trained.buffers)
    pinned = policy is Policy.rewind and rewinder.mask_0 == "freeze"
    if pinned:
        _pin(start.weights, dense.weights, mask)
    else:
        mask.apply_(start.weights)
    return Ticket(
        mask,
        start,
        {
            "policy": policy.value,
            "rewind": str(rewinder.step),
            "optimizer": rewinder.optimizer,
            "mask_1": rewinder.mask_1,
            "pinned": pinned,
        },
    )


def _restart(
    dense: Snapshot,
    rewinder: RewindToEpoch,
    weights: dict[str, Tensor],
    buffers: dict[str, Tensor],
) -> Snapshot:
    """Return these weights with the schedule of the rewinding point, and its momenta if asked."""
    optimizers = dense.optimizers
    if rewinder.optimizer == "fresh":
        optimizers = without_slots(optimizers)
    copies = {name: weight.clone() for name, weight in weights.items()}
    return Snapshot(dense.step, copies, buffers, optimizers, dense.schedulers, dense.position)


def without_slots(optimizers: list[Any]) -> list[Any]:
    """Return optimiser states with learning rates and options alone."""
    return [{"state": {}, "param_groups": state["param_groups"]} for state in optimizers]


def _pin(weights: dict[str, Tensor], values: dict[str, Tensor], mask: Mask) -> None:
    for name, keep in mask.items():
        weights[name] = torch.where(keep, weights[name], values[name])
