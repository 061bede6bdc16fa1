from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import synthetic

import ltpl.report.folder as room
from ltpl.report import report
from ltpl.tickets.result import round_folder

FIGURES = ["accuracy", "curves", "early_stop", "layers"]
FILES = sorted(
    ["index.html", *(f"table.{e}" for e in ("csv", "md", "tex"))]
    + ["analysis.md", "differences.csv", "differences.md"]
    + [f"{f}.{e}" for f in FIGURES for e in ("png", "svg")]
)
NASTY = "<img src=x onerror=alert(1)>&\"'"


class Page(HTMLParser):
    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a run in which every name is nasty."""
    rng = random.Random()
    folder = tmp_path_factory.mktemp("runs") / NASTY
    synthetic.run(folder)
    record = {"config": {"name": f"</pre>{NASTY}"}, "versions": {NASTY: NASTY}}
    synthetic.begin(folder, command=["ltpl", NASTY], **record)
    synthetic.save(folder / "branches" / "_ $x^$ 票", [synthetic.result(0, 2, rng)])
    branch = folder / "branches" / f"_{NASTY}"
    layers = [(f"{NASTY}.weight", 0, 2), ("_b.weight", 1, 2)]
    synthetic.save(branch, [synthetic.result(0, 1, rng)])
    (branch / "branch.json").write_text(json.dumps({"kind": NASTY}))
    synthetic.save(folder, [synthetic.result(0, k, rng, layers=layers) for k in range(4)])
    return report([folder])


def test_the_page_is_written_with_table_and_figures_beside(written: Path) -> None:
    assert written.name == "index.html"
    assert written.parent.name == "report"
    assert names(written.parent) == FILES
    for figure in FIGURES:
        assert (written.parent / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (written.parent / f"{figure}.svg").read_text()


def test_the_page_loads_nothing(written: Path) -> None:
    page = Page(written)
    assert not {"script", "link", "iframe", "object", "img", "image"} & {t for t, _ in page.tags}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "data", "action")
            assert not name.startswith("on")
            if name in ("href", "xlink:href"):
                assert value is not None
                assert value.startswith("#")
    text = written.read_text()
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_every_reference_in_the_page_has_one_target(written: Path) -> None:
    tags = Page(written).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    used = {str(a[k])[1:] for _, a in tags for k in ("href", "xlink:href") if k in a}
    used |= set(re.findall(r"url\(#([^)]*)\)", written.read_text()))
    assert used
    assert used <= set(ids)


def test_names_that_look_like_markup_are_text(written: Path) -> None:
    page = Page(written)
    assert page.text.count(NASTY) >= 4
    assert NASTY not in written.read_text()
    assert len(re.findall(r"<(?:h1|title)>", written.read_text())) == 2


def test_figures_in_the_page_follow_its_colours(written: Path) -> None:
    body = written.read_text().partition("<body>")[2]
    assert "var(--ink)" in body
    assert "var(--c0)" in body
    assert not re.findall(r"#[0-9a-f]{6}", body.partition("<h2>All rounds")[0])


def test_there_is_a_drawing_for_pages_and_one_for_phones(written: Path) -> None:
    kinds = [a.get("class") for tag, a in Page(written).tags if tag == "div"]
    assert kinds.count("wide") == kinds.count("narrow") == len(FIGURES)


def test_the_page_tells_how_it_was_made(written: Path) -> None:
    page = Page(written)
    wanted_text = ("All rounds", "ltpl '<img", "Configuration", "winning, matching")
    for wanted in (*wanted_text, "What the numbers say", "Lines side by side"):
        assert wanted in page.text


def test_the_contents_lead_to_every_part(written: Path) -> None:
    tags = Page(written).tags
    links = [str(a["href"])[1:] for tag, a in tags if tag == "a"]
    assert links == [a["id"] for tag, a in tags if tag == "section"]
    assert len(links) >= 8


def test_words_that_no_result_supports_are_not_written(tmp_path: Path) -> None:
    """Without two seeds nothing is decided, and no ticket wins."""
    folder = synthetic.run(tmp_path / "run", seeds=[0])
    page = report(folder)
    prose = Page(page).text.partition("All rounds")[0]
    assert "one seed decides nothing" in prose
    assert "winning" not in prose
    assert "<strong>" not in page.read_text()


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    folder = synthetic.run(tmp_path / "run")
    code = f"from ltpl.report import report; report([{str(folder)!r}], {str(tmp_path / 'b')!r})"
    with matplotlib.rc_context(
        {"lines.linewidth": 9, "xtick.major.size": 30, "svg.hashsalt": "other"}
    ):
        before = dict(matplotlib.rcParams)
        report([folder], tmp_path / "a")
        assert dict(matplotlib.rcParams) == before
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert sorted(first) == FILES
    assert first == second


def test_every_file_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = synthetic.run(tmp_path / "run", seeds=[0], levels=2)
    real, order = room.whole_file, []

    def whole_file(path: Path) -> Any:
        order.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(room, "whole_file", whole_file)
    page = report(folder)
    assert sorted(order) == names(page.parent) == FILES
    assert order[-1] == "index.html"


def test_a_report_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = synthetic.run(tmp_path / "run", seeds=[0], levels=2)
    before = contents(report(folder).parent)
    synthetic.save(folder, [synthetic.result(0, 2, random.Random())])
    with pytest.raises(ValueError, match="round 5"):
        report(folder, rounds=[5])
    assert contents(folder / "report") == before


def test_several_runs_share_the_figures_and_the_table(tmp_path: Path) -> None:
    folders = [synthetic.run(tmp_path / k / "run", seed=n) for n, k in enumerate("ab")]
    page = report([*folders, folders[0]])
    assert page == folders[0] / "report" / "index.html"
    table = (page.parent / "table.csv").read_text().splitlines()[1:]
    assert list(dict.fromkeys(line.split(",")[0] for line in table)) == ["a/run", "b/run"]
    shown = Page(page)
    assert [a.get("class") for tag, a in shown.tags if tag == "p"].count("found") == 2
    assert "a/run." in shown.text


def test_a_run_in_progress_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    rng = random.Random()
    folder = synthetic.begin(tmp_path / "run")
    each = synthetic.result(3, 0, rng, start={}, early_stop_step=None, layers=[])
    synthetic.save(folder, [each])
    (round_folder(folder, 3, 0) / "metrics.csv").write_text("step,epoch,val/lo")
    (folder / "seed_3" / "round_01").mkdir()
    page = report(folder)
    assert names(page.parent) == sorted(
        ["accuracy.png", "accuracy.svg", "index.html", "table.csv", "table.md", "table.tex"]
    )
    assert "Only the dense network is finished so far" in Page(page).text


def test_a_figure_of_an_earlier_report_does_not_stay_when_its_data_is_gone(tmp_path: Path) -> None:
    folder = synthetic.run(tmp_path / "run", seeds=[0], levels=2)
    page = report(folder)
    (page.parent / "notes.txt").write_text("mine")
    for path in folder.glob("seed_*/round_*/metrics.csv"):
        path.unlink()
    report(folder)
    expected = [name for name in FILES if not name.startswith("curves")]
    assert names(page.parent) == sorted([*expected, "notes.txt"])


@pytest.mark.parametrize("lacking", ["all of it", "the record", "the results", "the JSON"])
def test_a_folder_without_results_is_one_line_that_says_what_it_lacks(
    tmp_path: Path, lacking: str
) -> None:
    folder = tmp_path / "run"
    if lacking != "all of it":
        folder.mkdir()
    if lacking in ("the results", "the JSON"):
        (folder / "run.json").write_text("{}" if lacking == "the results" else "{")
    with pytest.raises(ValueError, match=re.escape(str(folder))) as error:
        report([synthetic.run(tmp_path / "good", seeds=[0], levels=1), folder])
    message = str(error.value)
    assert "\n" not in message
    assert {
        "all of it": "no folder",
        "the record": "no run.json",
        "the results": "no finished round",
        "the JSON": "no whole JSON",
    }[lacking] in message
    assert not (tmp_path / "good" / "report").exists()


def test_no_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="No run is given"):
        report([])


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path: Path) -> None:
    folder = synthetic.run(tmp_path / "run", seeds=[0], levels=1)
    code = (
        "import sys, ltpl.report as r; early = 'matplotlib' in sys.modules;"
        f"r.report({str(folder)!r}); late = 'matplotlib.pyplot' in sys.modules;"
        "print(early, late, 'pytorch_lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False", "False", "False"], done.stderr
