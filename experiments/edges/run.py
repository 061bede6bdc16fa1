"""Which edges of Cora can go? Learned, random, Jaccard and degree, 19 % a round, 10 rounds.

    python experiments/edges/run.py --data data --run runs/edges

Each criterion is a run of `ltpl rounds` over configs/gcn_cora_imp.yaml that prunes no weights.
Random edges are the control of the learned ones; `hard` trains on the graphs that `learned` found,
with edges that are there or not and no weights on them. Writes `results.csv` into
`experiments/edges/results` and prints the table.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path

from ltpl.cli import main
from ltpl.rounds.tree import RunTree
from ltpl.tickets import EdgeTicket

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "gcn_cora_imp.yaml"
LEVELS = 10
SHOWN = (0, 1, 3, 5, 7, 10)
COLUMNS = ("learned", "hard", "random", "jaccard", "degree")


def train(folder: Path, data: str, criterion: str) -> RunTree:
    run = folder / criterion
    main(
        [
            "rounds",
            f"--config={CONFIG}",
            f"--run={run}",
            f"--data.data_dir={data}",
            f"--levels={LEVELS}",
            "--seeds=0-2",
            "--prune.amount=0",
            "--model.network.hidden=16",
            "--edges=EdgePruning",
            "--edges.amount=0.19",
            f"--edges.criterion={criterion}",
            f"--edges.control={str(criterion == 'learned').lower()}",
            "--report=false",
            "--quiet",
        ]
    )
    return RunTree(run)


def rows(name: str, tree: RunTree, main_line: RunTree) -> list[dict[str, object]]:
    found = []
    for r in tree.results():
        kept = 1.0
        if r.round:
            kept = EdgeTicket.load(main_line.round(r.seed, r.round - 1)).density
        assert r.test_acc is not None
        found.append(
            {
                "edges": name,
                "seed": r.seed,
                "round": r.round,
                "removed": f"{100 * (1 - kept):.2f}",
                "test_acc": f"{100 * r.test_acc:.2f}",
            }
        )
    return found


def table(found: list[dict[str, object]]) -> str:
    lines = [f"| edges removed, % | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for level in SHOWN:
        here = [row for row in found if row["round"] == level]
        cells = [f"{float(str(here[0]['removed'])):.1f}"]
        for name in COLUMNS:
            values = [float(str(row["test_acc"])) for row in here if row["edges"] == name]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data", help="folder that holds Cora/raw")
    parser.add_argument("--run", type=Path, default=Path("runs/edges"), help="folder of the runs")
    given = parser.parse_args()
    sys.argv = sys.argv[:1]  # Lightning's command line looks at it
    began = time.monotonic()
    learned = train(given.run, given.data, "learned")
    hard = ["branch", str(learned.path), "--name=hard", "--kind=retrain"]
    main([*hard, "--edges.criterion=random", "--report=false", "--quiet"])
    found = rows("learned", learned, learned)
    found += [row | {"edges": n} for row in found if not row["round"] for n in ("hard", "random")]
    found += rows("hard", learned.branch("hard"), learned)
    found += rows("random", learned.branch("random_edges"), learned)
    for criterion in ("jaccard", "degree"):
        tree = train(given.run, given.data, criterion)
        found += rows(criterion, tree, tree)
    (HERE / "results").mkdir(exist_ok=True)
    with (HERE / "results" / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, found[0].keys())
        writer.writeheader()
        writer.writerows(found)
    print(table(found))
    print(f"{time.monotonic() - began:.0f} s")
