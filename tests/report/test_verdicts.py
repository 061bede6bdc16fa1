from __future__ import annotations

import csv
import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import synthetic

from ltpl.report import check, read_runs
from ltpl.report.verdicts import (
    summary,
    verdicts_as_markdown,
    verdicts_as_text,
    verdicts_section,
    write_verdicts,
)

NASTY = "<img src=x onerror=alert(1)>&\"'|\x1b[31m\u202e_*"
ENTRIES: list[dict[str, Any]] = [
    {"claim": "better", "of": "ticket@1", "minus": "dense", "at_least": 0, "number": 1},
    {"claim": "near", "of": "ticket@1", "minus": "dense", "value": -0.2, "tolerance": 0.05},
    {"claim": "slower", "of": "ticket@1", "over": "dense", "measure": "early_stop_step"}
    | {"at_least": 1.5, "at_most": 2.5, "source": "the paper"},
    {"claim": "small", "of": "ticket@1", "measure": "weights_left", "value": 8000, "tolerance": 0},
    {"claim": "sparser", "of": "ticket@9", "at_most": 3},
    {"claim": "many", "of": "dense", "value": 50, "tolerance": 9, "seeds": 3},
]


def made(folder: Path, **record: Any) -> Path:
    rng = random.Random(0)
    results = [
        synthetic.result(seed, level, rng, test_acc=accuracy, early_stop_step=100 * (level + 1))
        for (seed, level), accuracy in {
            **{(0, 0): 0.5, (1, 0): 0.6},
            **{(0, 1): 0.51, (1, 1): 0.612},
        }.items()
    ]
    synthetic.save(synthetic.begin(folder, **record), results)
    return folder


def test_the_table_has_a_line_for_each_claim_and_one_that_counts(tmp_path: Path) -> None:
    text = verdicts_as_text(check(made(tmp_path / "run"), ENTRIES))
    lines = [
        " | ".join(filter(None, (part.strip() for part in line.split("  "))))
        for line in text.splitlines()
    ]
    run = tmp_path / "run"
    assert lines == [
        "verdict | no. | claim | measured | expected | source",
        "not yet | 1 | better | +1.10 ± 0.14 pp (-0.17 to +2.37, n = 2); the interval reaches "
        "across a bound: more seeds | at least 0 pp",
        "not yet | near | +1.10 ± 0.14 pp (-0.17 to +2.37, n = 2); the interval reaches across a "
        "bound: more seeds | -0.2 ± 0.05 pp",
        "agree | slower | 2.00 ± 0.00 (2.00 to 2.00, n = 2) | 1.5 to 2.5 | the paper",
        "agree | small | 8000 ± 0 (8000 to 8000, n = 2) | 8000 ± 0",
        f"not yet | sparser | run has no round 9: ltpl rounds ... --run {run} --levels 9 | "
        "at most 3 %",
        "not yet | many | 55.00 ± 7.07 % (-8.53 to 118.53, n = 2); 2 of 3 seeds | 50 ± 9 %",
        "",
        "2 agree, 0 differ, 4 not yet",
    ]  # fmt: skip


def test_one_agrees_and_one_differs(tmp_path: Path) -> None:
    entries = [ENTRIES[3], ENTRIES[3] | {"value": 7000}]
    assert summary(check(made(tmp_path), entries)) == "1 agrees, 1 differs, 0 not yet"


def test_several_runs_are_told_apart(tmp_path: Path) -> None:
    runs = [made(tmp_path / name) for name in ("a", "b")]
    assert verdicts_as_text(check(runs, ENTRIES[:1])).splitlines()[2].startswith("b    not yet")


def test_files_hold_what_their_ending_says(tmp_path: Path) -> None:
    verdicts = check(made(tmp_path / "run"), ENTRIES)
    for ending in ("md", "csv", "json"):
        write_verdicts(verdicts, tmp_path / f"new/verdicts.{ending}")
    markdown = (tmp_path / "new/verdicts.md").read_text()
    assert markdown.splitlines()[1] == "| --- | --- | --- | --- | --- | --- |"
    assert markdown.endswith(f"\n\n{summary(verdicts)}\n")
    with (tmp_path / "new/verdicts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    content = json.loads((tmp_path / "new/verdicts.json").read_text())
    assert content["format"] == "ltpl.check/1"
    for verdict, row, entry in zip(verdicts, rows, content["verdicts"], strict=True):
        assert (row["claim"], row["verdict"]) == (verdict.expected.claim, verdict.word)
        assert (entry["claim"], entry["reason"]) == (verdict.expected.claim, verdict.reason)
        values = verdict.measured.values if verdict.measured else ()
        assert entry["values"] == list(values)
        assert int(row["n"]) == entry["n"] == len(values)
        if verdict.measured:
            assert float(row["mean"]) == entry["mean"] == verdict.measured.mean
            assert (entry["interval_low"], entry["interval_high"]) == verdict.interval


def test_what_is_not_a_number_is_valid_json(tmp_path: Path) -> None:
    rng = random.Random()
    accuracies = enumerate((0.9, math.nan))
    results = [synthetic.result(seed, 0, rng, test_acc=acc) for seed, acc in accuracies]
    synthetic.save(synthetic.begin(tmp_path / "run"), results)
    verdicts = check(tmp_path / "run", [{"claim": "c", "of": "dense", "at_least": 1}])
    write_verdicts(verdicts, tmp_path / "x.json")
    (entry,) = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)["verdicts"]
    assert (entry["verdict"], entry["mean"]) == ("not yet", None)
    assert entry["values"][1] is None
    assert "nan" in verdicts_as_text(verdicts)


@pytest.mark.parametrize("name", ["verdicts", "verdicts.txt", "", ".md"])
def test_another_ending_is_refused(name: str, tmp_path: Path) -> None:
    verdicts = check(made(tmp_path / "run"), ENTRIES)
    with pytest.raises(ValueError, match=r"out=.*\.md, \.csv, \.json"):
        write_verdicts(verdicts, name)
    assert not list(tmp_path.glob("*.md"))


def nasty(folder: Path) -> Path:
    entry = {"claim": NASTY, "of": "ticket@1", "minus": "dense", "at_most": 0, "source": NASTY}
    missing = {"claim": "c", "of": f"{NASTY.replace('/', '')}@1", "at_least": 0}
    return made(folder / "run", config={"expect": [entry, missing]})


def test_words_of_strangers_steer_neither_terminal_nor_table(tmp_path: Path) -> None:
    verdicts = check(nasty(tmp_path))
    for ending in ("md", "csv", "json"):
        write_verdicts(verdicts, tmp_path / f"x.{ending}")
    written = [(tmp_path / f"x.{ending}").read_text() for ending in ("md", "csv", "json")]
    for text in (verdicts_as_text(verdicts), *written):
        assert not {"\x1b", "\u202e"} & set(text)
    for line in verdicts_as_markdown(verdicts).splitlines()[:4]:
        assert line.replace("\\|", "").count("|") == 6
        assert "<img" not in line.replace("\\<", "")


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_section_of_a_page_says_the_same_and_holds_no_tags_of_strangers(
    tmp_path: Path,
) -> None:
    (run,) = read_runs([nasty(tmp_path)])
    page = Page(verdicts_section(run))
    allowed = {"div", "table", "thead", "tbody", "tr", "th", "td", "p"}
    assert set(page.tags) <= allowed
    assert NASTY in page.text
    assert "0 agree, 0 differ, 2 not yet" in page.text
    assert "(\u22120.17 to +2.37, n = 2)" in page.text
    assert "--levels 1" in page.text  # a command stays one


def test_the_section_is_empty_without_expectations_and_a_line_if_they_are_wrong(
    tmp_path: Path,
) -> None:
    (run,) = read_runs([made(tmp_path / "a")])
    assert verdicts_section(run) == ""
    (run,) = read_runs([made(tmp_path / "b", config={"expect": [{NASTY: 1}]})])
    page = Page(verdicts_section(run))
    assert page.tags == ["p"]
    assert "entry 1: option=" in page.text
