"""What finished rounds say: tables, figures and one self-contained page."""

from ltpl.report.alarm import alarm
from ltpl.report.check import Verdict, check
from ltpl.report.expect import Expectation
from ltpl.report.folder import report
from ltpl.report.lines import Line, Run, read_runs
from ltpl.report.numbers import as_csv
from ltpl.report.score import Score
from ltpl.report.spread import Spread
from ltpl.report.tables import Row, as_latex, as_markdown, as_text, rows

__all__ = [
    "Expectation",
    "Line",
    "Row",
    "Run",
    "Score",
    "Spread",
    "Verdict",
    "alarm",
    "as_csv",
    "as_latex",
    "as_markdown",
    "as_text",
    "check",
    "read_runs",
    "report",
    "rows",
]
