"""Latency beside MACs and parameters: ResNet-20 (option A) with 30 and 50 % of its channels gone.

    python -m experiments.compaction.latency --out experiments/compaction/results/latency.csv

Dense and compacted networks take turns inside one run, on one thread; ratios to the dense network
are what counts. Which channels go is drawn at random: latency does not ask.
"""

from __future__ import annotations

import argparse
import csv
import platform
from pathlib import Path

import torch

from ltpl import compact
from ltpl.compaction.cost import cost, total
from ltpl.compaction.groups import coupling
from ltpl.compaction.latency import denormals, latency
from ltpl.masks.channels import channel_mask, scaled_norms, units_of
from ltpl.models import ResNet

COLUMNS = (
    "network",
    "batch",
    "parameters",
    "macs",
    "ms",
    "low",
    "high",
    "macs_ratio",
    "time_ratio",
)


def networks(example: torch.Tensor) -> dict[str, torch.nn.Module]:
    """Return the dense network and its compacted forms."""
    torch.manual_seed(0)
    dense = ResNet(depth=20)
    found = {"dense": dense}
    hang = coupling(dense, (example,), scaled_norms(dense))
    for trunk in ("inner", "group"):
        for amount in (0.3, 0.5):
            units = units_of(trunk, hang.units, hang.trunk)
            mask = channel_mask(dense, amount, score="random", units=units)
            for round_to in (1, 4, 8):
                small = compact(dense, mask, example, round_to=round_to)
                found[f"{trunk} {amount:.0%} round_to={round_to}"] = small
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    one = torch.randn(1, 3, 32, 32)
    found = networks(one)
    costs = {name: total(cost(network, (one,))) for name, network in found.items()}
    rows = []
    for batch in options.batches:
        times = latency(found, (torch.randn(batch, 3, 32, 32),), options.repeats)
        for name, network in found.items():
            macs, time = costs[name].macs, times[name]
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "parameters": costs[name].parameters,
                    "macs": macs,
                    "ms": f"{1e3 * time.median:.2f}",
                    "low": f"{1e3 * time.low:.2f}",
                    "high": f"{1e3 * time.high:.2f}",
                    "macs_ratio": f"{macs / costs['dense'].macs:.2f}",
                    "time_ratio": f"{time.median / times['dense'].median:.2f}",
                }
            )
            print(*rows[-1].values(), f"denormals={denormals(network)}", sep="\t", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(platform.processor() or platform.machine(), torch.__version__)


if __name__ == "__main__":
    main()
