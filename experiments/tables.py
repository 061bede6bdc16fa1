"""Tables of the READMEs in this folder, made by the report from the results that lie beside them.

    python -m experiments.tables            # writes them anew
    python -m experiments.tables --check    # says which README differs; exit code 1 if one does

A README marks where a table goes:

    <!-- table: levels results/h64 --lines ticket,reinit -->
    (what stands here is replaced)
    <!-- end -->

First what it shows, then the folder of the results, beside the README:

    rounds         a row for each line and round, as in `table.md`
    levels         a row for each density, a column for each line
    differences    paired by seed, as in `differences.md`
    verdicts       what `ltpl check` says, with the claims of `--config`, a name in `configs`
    instability    a row for each `reorder` branch and round: `branches/NAME` holds `summary.csv`,
                   `branch.json` and `seed_N/round_RR/path.csv`

Of the first three, `--rounds 0,3,7` and `--lines ticket,reinit` choose among them, and
`--columns "round; seconds"` among the columns of `rounds`, by title.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

from ltpl.masks.files import whole_file
from ltpl.report import as_markdown, check, differences, read_runs, rows
from ltpl.report.grid import in_markdown, markdown
from ltpl.report.instability_table import instability_table
from ltpl.report.levels import levels
from ltpl.report.tables import columns
from ltpl.report.verdicts import verdicts_as_markdown

HERE = Path(__file__).parent
BLOCK = re.compile(r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def marker() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("<!-- table: -->", add_help=False, allow_abbrev=False)
    parser.add_argument(
        "shows", choices=("rounds", "levels", "differences", "verdicts", "instability")
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", default="")
    parser.add_argument("--lines", default="")
    parser.add_argument("--columns", default="")
    parser.add_argument("--config", default="")
    return parser


def table(words: str, beside: Path) -> str:
    """Return the table that a marker asks for."""
    asked = marker().parse_args(shlex.split(words))
    if asked.shows == "verdicts":
        config = HERE.parent / "configs" / f"{asked.config}.yaml"
        found = verdicts_as_markdown(check(beside / asked.folder, config))
        return found.replace(in_markdown(f"{beside}/"), "")  # of commands that are missing
    (run,) = read_runs([beside / asked.folder])
    if asked.shows == "instability":
        return markdown(instability_table(run))
    every = rows([run])
    numbers = [int(number) for number in asked.rounds.split(",") if number]
    lines = [name for name in asked.lines.split(",") if name]
    wanted = [title.strip() for title in asked.columns.split(";") if title.strip()]
    known = {row.line for row in every} | {"dense"}
    titles = [column.title for column in columns(every)]
    for name, allowed in [*((n, known) for n in lines), *((t, titles) for t in wanted)]:
        if name not in allowed:
            raise ValueError(f"{words}: there is no {name!r}, only {', '.join(sorted(allowed))}.")
    kept = [
        row
        for row in every
        if (not numbers or row.round in numbers) and (not lines or row.line in lines)
    ]
    if asked.shows == "rounds":
        return as_markdown(kept, wanted)
    if asked.shows == "levels":
        return markdown(levels(kept, lines))
    return differences.as_markdown(
        [
            d
            for d in differences.differences([run], every[0].measure)
            if (not numbers or d.round in numbers)
            and (not lines or {d.first, d.second} <= {*lines, "ticket"})
        ]
    )


def filled(readme: Path) -> str:
    """Return a README with its tables made anew."""
    return BLOCK.sub(
        lambda found: f"{found[1]}\n{table(found[2], readme.parent)}\n{found[3]}",
        readme.read_text("utf-8"),
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("experiments.tables")
    parser.add_argument(
        "--check", action="store_true", help="Write nothing; exit 1 if one differs."
    )
    only_look = parser.parse_args(arguments).check
    differ = [path for path in sorted(HERE.glob("*/README.md")) if filled(path) != path.read_text()]
    for path in differ:
        print(f"{path.relative_to(HERE.parent)} {'differs' if only_look else 'is made anew'}")
        if not only_look:
            with whole_file(path) as beside:
                beside.write_text(filled(path), "utf-8")
    return int(only_look and bool(differ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
