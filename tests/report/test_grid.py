from __future__ import annotations

import re

import pytest

from ltpl.report.grid import Grid, html, in_latex, latex, markdown, text

HEAD = ["line", "ticket - reinit, %"]
NASTY = r"\a_b & 50 % of #1 {x}~^$ <b>|票"


def test_every_format_has_every_cell() -> None:
    grid = Grid(HEAD, [["a", "-0.1"], ["bcd", "1,000"]], left=1)
    assert (
        text(grid)
        == "line  ticket - reinit, %\na                   -0.1\nbcd                1,000\n"
    )
    assert markdown(grid).splitlines()[1:] == ["| :--- | ---: |", "| a | -0.1 |", "| bcd | 1,000 |"]
    assert "a & $-$0.1 \\\\\n" in latex(grid)
    assert '<td class="left">a</td><td>\u22120.1</td>' in html(grid, "x")
    assert "ticket \u2212 reinit,\u00a0%</th>" in html(grid, "x")


def test_latex_prints_names_as_they_are() -> None:
    found = in_latex(NASTY)
    assert found == (
        r"\textbackslash{}a\_b \& 50 \% of \#1 \{x\}\textasciitilde{}\textasciicircum{}\$ "
        r"\textless{}b\textgreater{}\textbar{}U+7968"
    )
    rows = latex(Grid([NASTY, NASTY], [[NASTY, NASTY]] * 2, left=1, starts=frozenset({0, 1})))
    assert rows.count("\\hline\n") == 4
    assert all(line.count(" & ") == 1 for line in rows.splitlines() if line.endswith("\\\\"))
    assert "{lr}" in rows


@pytest.mark.parametrize(
    ("plain", "typeset"),
    [
        ("-0.15 to +0.50", "$-$0.15 to +0.50"),
        ("+0.20 ± 0.16 (-0.06 to +0.46)", r"+0.20 $\pm$ 0.16 ($-$0.06 to +0.46)"),
        ("ticket - dense", "ticket $-$ dense"),
        ("lr-rewind", "lr-rewind"),
        ("é", "é"),
    ],
)
def test_latex_has_true_minus_signs(plain: str, typeset: str) -> None:
    assert in_latex(plain) == typeset


@pytest.mark.parametrize(
    ("cell", "bold"),
    [
        ("+0.92 ± 0.20 (+0.60 to +1.24)", True),
        ("-0.92 ± 0.20 (-1.24 to -0.60)", True),
        ("+0.20 ± 0.16 (-0.06 to +0.46)", False),
        ("+0.20 ± 0.16 (+0.00 to +0.46)", False),
        ("+0.20", False),
    ],
)
def test_a_difference_is_bold_where_its_interval_leaves_out_zero(cell: str, bold: bool) -> None:
    found = html(Grid(HEAD, [["a", cell]], left=1), "x")
    assert ("<strong>" in found) == bold
    assert ("<small>" in found) == ("(" in cell)


def test_cells_of_strangers_are_text_in_a_page() -> None:
    found = html(Grid(HEAD, [[NASTY, f"{NASTY} (+1 to +2)"]], left=1), NASTY)
    assert "<b>" not in re.sub(r"</?t?body>", "", found)
    assert found.count("&lt;b&gt;") == 3
