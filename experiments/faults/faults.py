"""Inject faults into runs; write down what was said and what was kept.

python -m experiments.faults.faults --folder /tmp/faults --out experiments/faults/results/faults.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ltpl.rounds.alone import alone
from ltpl.tickets.files import stored_digest
from tests.rounds.starting import command, started, wait_for

Bits = dict[str, str | None]
ROUND = "seed_0/round_01"


def bits(folder: Path) -> Bits:
    files = sorted(folder.rglob("*.safetensors"))
    return {str(file.relative_to(folder)): stored_digest(file) for file in files}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    path.write_bytes(content)


def again(run: Path, *options: str, **more: object) -> str:
    """Run the same command to its end; return what it said."""
    out, err = started(command(run, 1, *options), **more).communicate(timeout=300)  # type: ignore[arg-type]
    return out + err


def interrupted(run: Path, number: int, processes: int = 1, **environment: str) -> str:
    """Run the command and send a signal into its second round; return what it said."""
    process = started(command(run, processes), PAUSE="0.1", **environment)
    wait_for(run, f"{ROUND}/metrics.csv", [process])
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    return out + err


class Bench:
    """A finished run, and a folder for what happens to copies of it.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        again(folder / "whole")
        self.whole = bits(folder / "whole")

    def finished(self, damage: Callable[[Path], None], file: str) -> tuple[Path, str]:
        run = self.folder / f"{damage.__name__}-{file}".replace("/", "-")
        shutil.copytree(self.folder / "whole", run)
        damage(run / file)
        return run, again(run)

    def unfinished(self, damage: Callable[[Path], None], file: str) -> tuple[Path, str]:
        run = self.folder / f"unfinished-{damage.__name__}-{file}".replace("/", "-")
        interrupted(run, signal.SIGTERM)
        damage(run / file)
        return run, again(run)

    def signalled(self, number: signal.Signals, twice: bool = False) -> tuple[Path, str]:
        run = self.folder / f"{number.name}"
        return run, interrupted(run, number)

    def slurm(self) -> tuple[Path, str]:
        tools = self.folder / "tools"
        tools.mkdir()
        (tools / "scontrol").write_text("#!/bin/sh\nexit 0\n")
        (tools / "scontrol").chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        run = self.folder / "slurm"
        return run, interrupted(run, signal.SIGUSR1, SLURM_JOB_ID="4242", PATH=path)

    def killed(self, leader: bool) -> tuple[Path, str]:
        run = self.folder / f"killed-{leader}"
        process = started(command(run, 2), PAUSE="0.1")
        wait_for(run, f"{ROUND}/metrics.csv", [process])
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(process.pid if leader else int(children[0]), signal.SIGKILL)
        out, err = process.communicate(timeout=300)
        return run, out + err

    def full(self) -> tuple[Path, str]:
        """A real file system of 100 kB."""
        disk, run = self.folder / "disk", self.folder / "disk/run"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            run = self.folder / "limited"
            size = 3 * (self.folder / "whole" / ROUND / "final.safetensors").stat().st_size // 4
            hard = resource.RLIM_INFINITY
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # noqa: E731
            return run, again(run, first=limit)
        said = again(run)
        subprocess.run(["mount", "-o", "remount,size=99m", str(disk)], check=True)
        return run, said

    def read_only(self) -> tuple[Path, str]:
        """The disk of before, which has become read-only."""
        disk, run = self.folder / "read_only", self.folder / "read_only/run"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            return Path("/proc/run"), again(Path("/proc/run"))
        interrupted(run, signal.SIGTERM)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        said = again(run)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        return run, said

    def second(self) -> tuple[Path, str]:
        run = self.folder / "second"
        shutil.copytree(self.folder / "whole", run)
        with alone(run / "seed_0"):
            return run, again(run)

    def clock(self) -> tuple[Path, str]:
        """Files of the first half are from next year."""
        run = self.folder / "clock"
        interrupted(run, signal.SIGTERM)
        for path in run.rglob("*"):
            os.utime(path, (time.time() + 3e7,) * 2)
        for path in run.rglob("events.out.tfevents.*"):
            made = path.name.split(".")[3]
            path.rename(path.with_name(path.name.replace(made, f"{int(made) + 30_000_000}")))
        return run, again(run)

    def astray(self) -> tuple[Path, str]:
        run = self.folder / "astray"
        return run, again(run, "--model.nan_from=7")

    def after(self, run: Path) -> str:
        """What the same command makes of it."""
        last = again(run)
        same = bits(run) == self.whole
        return "the same command ends with the same bits" if same else _line(last)


def _line(said: str) -> str:
    """Return the line that speaks of the fault."""
    telling = re.compile(
        r"error:|damaged|run again|passed over|To go on|all end|requeued|is nan|goes on from"
    )
    lines = [line for line in said.splitlines() if telling.search(line) and "result.py" not in line]
    return max(lines or said.splitlines()[-1:] or [""], key=lambda line: "goes on from" not in line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="Pattern of faults; other rows stay.")
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    bench = Bench(given.folder)
    files = ("mask.safetensors", "snapshot.safetensors", "final.safetensors", "result.json")
    cases: dict[str, Callable[[], tuple[Path, str]]] = {}
    for damage, what in ((cut, "cut short"), (flip, "one bit flipped")):
        for file in files:
            place = f"{ROUND}/{file}"
            cases[f"{file} of a finished round: {what}"] = lambda damage=damage, place=place: (
                bench.finished(damage, place)
            )
        cases[f"last.ckpt of an interrupted round: {what}"] = lambda damage=damage: (
            bench.unfinished(damage, f"{ROUND}/checkpoints/last.ckpt")
        )
        cases[f"mask.safetensors of an interrupted round: {what}"] = lambda damage=damage: (
            bench.unfinished(damage, f"{ROUND}/mask.safetensors")
        )
    cases |= {
        "snapshot.safetensors of the dense round: one bit flipped": lambda: bench.finished(
            flip, "seed_0/round_00/snapshot.safetensors"
        ),
        "metrics.csv of an interrupted round: cut short": lambda: bench.unfinished(
            cut, f"{ROUND}/metrics.csv"
        ),
        "run.json: cut short": lambda: bench.finished(cut, "run.json"),
        "the disk is full": bench.full,
        "the disk has become read-only": bench.read_only,
        "another process works there": bench.second,
        "the clock was put back by a year": bench.clock,
        "SIGTERM in training": lambda: bench.signalled(signal.SIGTERM),
        "SIGINT in training": lambda: bench.signalled(signal.SIGINT),
        "SIGUSR1 from SLURM in training": bench.slurm,
        "one of two processes is killed": lambda: bench.killed(False),
        "the leading one of two processes is killed": lambda: bench.killed(True),
        "a loss is NaN": bench.astray,
    }
    rows = []
    before = list(csv.DictReader(given.out.open(newline=""))) if given.only else []
    for fault, inject in cases.items():
        if not re.search(given.only, fault):
            rows += [row for row in before if row["fault"] == fault]
            continue
        run, said = inject()
        if "Traceback" in said:
            print(said)
        one_process = "processes" not in fault
        kept = (
            bench.after(run) if one_process and "NaN" not in fault else _kept_of_others(run, fault)
        )
        rows.append({"fault": fault, "said": _plain(_line(said), given.folder), "kept": kept})
        print(f"| {fault} | {rows[-1]['said']} | {rows[-1]['kept']} |", flush=True)
    for disk in ("disk", "read_only"):
        subprocess.run(["umount", str(given.folder / disk)], check=False, capture_output=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["fault", "said", "kept"])
        writer.writeheader()
        writer.writerows(rows)
    return 0


def _plain(line: str, folder: Path) -> str:
    """Return a line without the folders of this machine."""
    line = re.sub(r"^\S*: UserWarning: ", "", line.strip())
    for here in (folder, Path(__file__).parents[2]):
        line = line.replace(f"{here}/", "")
    return line


def _kept_of_others(run: Path, fault: str) -> str:
    if "NaN" in fault:
        return f"{(run / 'seed_0/round_00/diverged.json').read_text().split()[2]} in diverged.json"
    started(command(run, 2)).communicate(timeout=300)
    finished = len(list(run.rglob("result.json")))
    return f"the same command finishes {finished} of 3 rounds"


if __name__ == "__main__":
    sys.exit(main())
