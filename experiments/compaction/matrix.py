"""Masked against compacted, over architectures, ratios and kinds of masks.

    python -m experiments.compaction.matrix --out experiments/compaction/results/matrix.csv

Random BatchNorm statistics and random masks; each row is exact, or refused by the operation's name.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from pathlib import Path

import torch

from experiments.compaction.networks import architectures, masked, randomise
from ltpl.compaction import CompactionError
from ltpl.compaction.compact import planned
from ltpl.compaction.left import left

COLUMNS = (
    *("network", "mask", "amount", "parameters", "left", "macs", "macs_left"),
    *("error", "error64", "selections", "folds", "seconds", "refused"),
)


def row(name: str, kind: str, amount: float, seed: int) -> dict[str, object]:
    torch.manual_seed(seed)
    model, example = architectures()[name]()
    randomise(model)
    begin = {"network": name, "mask": kind, "amount": amount}
    began = time.perf_counter()
    try:
        mask = masked(model, example, amount, kind)
        found = planned(model, mask, example)
    except CompactionError as error:
        return {**begin, "refused": str(error)}
    proof = found.proof
    total = left(model, mask, example, found.apply(copy.deepcopy(model)))[-1]
    return {
        **begin,
        "parameters": total.parameters,
        "left": total.parameters_left,
        "macs": total.macs,
        "macs_left": total.macs_left,
        "error": f"{proof.error:.1e}",
        "error64": f"{proof.error64:.1e}",
        "selections": len(found.spec.selections),
        "folds": len(found.folded),
        "seconds": f"{time.perf_counter() - began:.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--amounts", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for name in architectures():
            kinds = ("channels", "weights") if name.startswith("LeNet-") else ("channels", "groups")
            for kind in kinds:
                for amount in (0.95, 0.98) if kind == "weights" else options.amounts:
                    found = row(name, kind, amount, options.seed)
                    writer.writerow(found)
                    file.flush()
                    print(*(found.get(c, "") for c in COLUMNS), sep="\t", flush=True)


if __name__ == "__main__":
    main()
