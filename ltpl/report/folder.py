"""`report`: tables, figures and one self-contained page from finished rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ltpl.masks.files import whole_file
from ltpl.report import analysis, differences
from ltpl.report.analysis import answers
from ltpl.report.console import plain
from ltpl.report.figures import NAMES, pictures
from ltpl.report.lines import read_runs
from ltpl.report.numbers import as_csv
from ltpl.report.page import page
from ltpl.report.tables import as_latex, as_markdown, rows


def report(
    dirs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    rounds: Sequence[int] | None = None,
) -> Path:
    """Write table, figures and a page about one run, or about several side by side.

    The folder gets `index.html`, which needs none of the other files; `table.csv`, `table.md`,
    `table.tex`; `differences.csv` and `differences.md`, paired by seed; `analysis.md`, what the
    numbers say; and each figure as `.png` and `.svg`. The same results give the same bytes.

    Args:
        dirs: Run folders; runs in progress are reported as far as they are. Folders of shipped
            results, which hold only a `summary.csv`, will do.
        out: Where to write; `report` in the first run if not given.
        rounds: Rounds whose training is drawn; dense, the last and some between if not given.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: If a folder does not exist, is no run or has no finished round, or if none of
            the runs has finished one of `rounds`.
    """
    folders = [dirs] if isinstance(dirs, str | Path) else list(dirs)
    runs = read_runs(folders)
    table = rows(runs)
    drawn = pictures(runs, table, rounds)
    folder = Path(folders[0], "report") if out is None else Path(out)
    if out is None and folder.is_symlink():
        raise ValueError(f"{folder} is a link: say where the page shall be, --out.")
    files: dict[str, bytes] = {}
    for picture in drawn:
        files[f"{picture.name}.png"] = picture.png
        files[f"{picture.name}.svg"] = plain(picture.svg).encode()
    found = differences.differences(runs, table[0].measure)
    said = [(run.name, answers(run, table[0].measure)) for run in runs]
    files["table.csv"] = plain(as_csv(table)).encode()
    files["table.md"] = as_markdown(table).encode()
    files["table.tex"] = as_latex(table).encode()
    if found:
        files["differences.csv"] = plain(differences.as_csv(found)).encode()
        files["differences.md"] = differences.as_markdown(found).encode()
    if any(lines for _, lines in said):
        files["analysis.md"] = analysis.as_markdown(said).encode()
    # last: it is there when all is there
    files["index.html"] = plain(page(runs, table, drawn, found, said)).encode()
    for name, content in files.items():
        with whole_file(folder / name) as beside:
            beside.write_bytes(content)
    figures = (f"{name}.{ending}" for name in NAMES for ending in ("png", "svg"))
    for name in (*figures, "differences.csv", "differences.md", "analysis.md"):
        if name not in files:  # of an earlier report, when there was something to tell
            (folder / name).unlink(missing_ok=True)
    return folder / "index.html"
