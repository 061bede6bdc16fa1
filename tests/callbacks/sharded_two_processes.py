"""Fit on two processes that share the parameters; write what each of them arrives at."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from sharded import ADAM, CASES, Case, Module, data, fit, network, pruned, trainer, whole
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor

from ltpl.callbacks import CompactAfterPruning, EarlyBird, NetworkSlimming, RewindToEpoch
from ltpl.masks import Mask, prune
from ltpl.tickets.snapshot import Snapshot

REFUSED = {
    "snip": lambda: [pruned(criterion="snip")],
    "taylor": lambda: [NetworkSlimming(score="taylor")],
    "slimmed trunk": lambda: [NetworkSlimming(trunk="group")],
    "watched trunk": lambda: [EarlyBird(trunk="inner")],
    "compaction": lambda: [pruned(), CompactAfterPruning()],
}


def shared(full: bool = True) -> dict[str, Any]:
    strategy = ModelParallelStrategy(2, 1, save_distributed_checkpoint=not full)
    return {"devices": 2, "strategy": strategy, "use_distributed_sampler": False}


def message(act: Any) -> str:
    try:
        act()
    except ValueError as error:
        return str(error)
    return "nothing was said"


def resumed(folder: Path, full: bool) -> dict[str, Any]:
    """Stop after three of five epochs, and go on from the checkpoint."""
    case = Case(lambda: [pruned(), RewindToEpoch(epoch=1, optimizer="restored")], ADAM)
    run, _ = fit(folder, case, max_epochs=3, **shared(full))
    path = folder / f"full_{full}.ckpt"
    run.save_checkpoint(path)
    return fit(folder, case, resume=path, **shared(full))[1]


def plain_torch() -> dict[str, Any]:
    """Without Lightning, on a network of which the last forward left a part gathered."""
    net = network()
    fully_shard(net[0])
    fully_shard(net)
    net.eval()
    net(data().dataset[:][0])
    mask = prune(net, 0.5)
    net(data().dataset[:][0])
    mask.apply_(net)
    snapshot = Snapshot.take("0ep", net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    net(data().dataset[:][0])
    snapshot.restore_weights_(net)
    net.reshard()
    weights = {n: whole(p.detach()) for n, p in net.named_parameters()}
    assert any(isinstance(p, DTensor) for p in net.parameters())
    return {"mask": dict(mask), "snapshot": snapshot.weights, "weights": weights}


def flattened(use_orig_params: bool) -> list[str]:
    wrapped = FullyShardedDataParallel(
        network(), device_id=torch.device("cpu"), use_orig_params=use_orig_params
    )
    mask = Mask.dense({"0.weight": torch.ones(15, 8)})
    net: nn.Module = wrapped
    return [message(lambda: prune(net, 0.5)), message(lambda: mask.apply_(net))]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    found = {name: fit(folder / name, case, **shared())[1] for name, case in CASES.items()}
    found |= {f"full_{full}": resumed(folder, full) for full in (True, False)}
    refused = {}
    for name, callbacks in REFUSED.items():
        run = trainer(folder, callbacks(), **shared())
        refused[name] = message(lambda run=run: run.fit(Module(ADAM), data()))
    found |= {"refused": refused, "plain": plain_torch()}
    found |= {"flattened": flattened(False) + flattened(True)}
    torch.save(found, folder / f"rank{run.global_rank}.pt")
